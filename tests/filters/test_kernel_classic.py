"""The running kernel checks and runs classic BPF as we do: socket filters, which need no privilege.

They keep the same generic rules as filters of requests; what they return is how many bytes of a
message stay, by which its value is seen. Filters of system calls (seccomp) have the white list of
those of requests, but for the size of what they look at.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import random
import resource
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from pybpfvm.filters.asm import assemble
from pybpfvm.filters.cbpf import SPECS, Insn, Kind, Mode, encode
from pybpfvm.filters.check import check, check_classic
from pybpfvm.filters.context import CONTEXT_BYTES
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


# --- the white list -----------------------------------------------------------------------------

_SYS_SECCOMP = 317  # x86-64
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_SET_NO_NEW_PRIVS = 38
_SYSTEM_CALL_BYTES = 64  # struct seccomp_data


def _ask_seccomp(programs: list[bytes]) -> list[int]:
    """The errno for each program: EMFILE where it is accepted, and would get the descriptor of a
    listener, of which this process may have none. So no program is ever installed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    answers = []
    for code in programs:
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
        libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, program)
        answers.append(ctypes.get_errno())
    resource.setrlimit(resource.RLIMIT_NOFILE, most)
    return answers


def asked_of_seccomp(programs: Sequence[Sequence[Insn]]) -> list[int]:
    """`_ask_seccomp` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_ask_seccomp, ([encode(insns) for insns in programs],))


def seen_alike(insns: Sequence[Insn]) -> bool:
    """Whether no word is loaded that only one of the two kinds of filters has."""
    return not any(
        insn.spec is not None
        and insn.spec.mode is Mode.WORD
        and CONTEXT_BYTES <= insn.k < _SYSTEM_CALL_BYTES
        for insn in insns
    )


def test_the_kernels_white_list_is_ours() -> None:
    """Each instruction by itself, loads at each offset, then programs of several."""
    rng = random.Random(8)
    end = Insn(0x06, 1)
    stored = Insn(0x02, 1)
    programs: list[list[Insn]] = [[end]]
    programs += [[stored, Insn(spec.code, 1), end] for spec in SPECS.values()]
    programs += [[Insn(0x20, at), end] for at in (*range(44), 64, 68, 0xFFFF_F000, 0xFFFF_FFFC)]
    while len(programs) < 4000:
        program = some(rng, rng.randrange(1, 9), sound=len(programs) % 2 == 0)
        if rng.random() < 0.05:
            program[rng.randrange(len(program))] = Insn(rng.getrandbits(16), rng.getrandbits(5))
        programs.append(program)
    programs = [program for program in programs if seen_alike(program)]
    answers = asked_of_seccomp(programs)
    if answers[0] != errno.EMFILE:
        pytest.skip(f"the running kernel judges no filters of system calls: errno {answers[0]}")
    accepted = 0
    for program, answer in zip(programs, answers, strict=True):
        problems = check(program)
        assert answer == (errno.EINVAL if problems else errno.EMFILE), (program, problems)
        accepted += not problems
    assert 400 < accepted < 3400  # both verdicts are seen
