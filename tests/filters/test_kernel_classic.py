"""The running kernel checks and runs classic BPF as we do: socket filters, which need no privilege.

They keep the same generic rules as filters of requests; what they return is how many bytes of a
message stay, by which its value is seen.
"""

from __future__ import annotations

import ctypes
import errno
import random
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from pybpfvm.filters.asm import assemble
from pybpfvm.filters.cbpf import SPECS, Insn, Kind, Mode, encode
from pybpfvm.filters.check import check_classic
from pybpfvm.filters.run import run_checked

_SO_ATTACH_FILTER = 26
_MESSAGE = bytes(1000)
# Of a word, bits that a message's length can show.
_SHOWN = 9


class Filtered:
    """A pair of datagram sockets, one with a filter."""

    def __init__(self) -> None:
        self.sender, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)

    def attach(self, insns: Sequence[Insn]) -> int:
        """0 or an errno."""
        code = ctypes.create_string_buffer(encode(insns), 8 * len(insns))
        program = struct.pack("HxxxxxxP", len(insns), ctypes.addressof(code))
        try:
            self.receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except OSError as error:
            return error.errno or -1
        return 0

    def passed(self) -> int:
        """How many bytes of a message get through; 0: none does."""
        try:
            self.sender.send(_MESSAGE)
            return len(self.receiver.recv(len(_MESSAGE)))
        except (BlockingIOError, PermissionError):
            return 0

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def filtered() -> Iterator[Filtered]:
    pair = Filtered()
    if pair.attach(assemble("ret #1")):
        pair.close()
        pytest.skip("the running kernel attaches no classic filters to sockets")
    yield pair
    pair.close()


def some(rng: random.Random, count: int, *, sound: bool) -> list[Insn]:
    """A program of any instructions, that ends in a return most times; `sound`: without loads of
    messages, and with operands that are mostly fine."""
    specs = [
        spec
        for spec in SPECS.values()
        if not (sound and spec.mode in (Mode.WORD, Mode.INDIRECT, Mode.HEADER, Mode.LEN))
    ]
    program = []
    for index in range(count):
        spec = rng.choice(specs)
        left = count - index - 1
        k = rng.choice((0, 1, 2, 7, 31, 32, 0xFF, 0x8000_0000, 0xFFFF_FFFF, rng.getrandbits(32)))
        if spec.mode is Mode.SCRATCH:
            k = rng.randrange(4 if sound else 18)
        elif spec.kind is Kind.JUMP:
            k = rng.randrange(left + 1)
        elif spec.mode in (Mode.WORD, Mode.INDIRECT, Mode.HEADER):
            k = rng.randrange(64)  # above are the kernel's extensions, which are not classic
        elif sound and spec.op in ("lsh", "rsh", "div", "mod") and spec.mode is Mode.IMM:
            k = rng.randrange(1, 32)
        jt = jf = 0
        if spec.kind is Kind.BRANCH:
            jt, jf = (rng.randrange(left + 1 + (not sound)) for _ in range(2))
        program.append(Insn(spec.code, k, jt & 0xFF, jf & 0xFF))
    if sound or rng.random() < 0.9:
        program.append(Insn(0x06, 1))
    return program


def test_the_kernel_refuses_what_we_refuse(filtered: Filtered) -> None:
    rng = random.Random(6)
    refused = 0
    for turn in range(4000):
        program = some(rng, rng.randrange(1, 12), sound=turn % 2 == 0)
        if rng.random() < 0.05:
            program[rng.randrange(len(program))] = Insn(rng.getrandbits(16), rng.getrandbits(5))
        found = check_classic(program)
        answer = filtered.attach(program)
        assert (answer == errno.EINVAL) == bool(found), (program, found, answer)
        refused += bool(found)
    assert 400 < refused < 3600  # both verdicts are seen


def test_the_kernel_computes_what_we_compute(filtered: Filtered) -> None:
    rng = random.Random(7)
    compared = 0
    while compared < 1500:
        body = [
            insn
            for insn in some(rng, rng.randrange(4, 20), sound=True)[:-1]
            if insn.spec is not None and insn.spec.kind is not Kind.RETURN
        ]
        shift = rng.randrange(0, 32 - _SHOWN + 1)
        shown = assemble(f"rsh #{shift}\nand #{(1 << _SHOWN) - 1}\nadd #1\nret a")
        first = assemble(f"ld #{rng.getrandbits(32)}\nldx #{rng.getrandbits(5)}")
        program = [*first, *body, *shown]
        if check_classic(program):
            continue
        assert filtered.attach(program) == 0
        result = run_checked(program, b"").result
        assert filtered.passed() == min(result, len(_MESSAGE)), (program, result)
        compared += 1
