"""snprintf, strtol and strtoul against the running kernel's, on seeded formats and texts.

PYBPFVM_ORACLE_SEQUENCES (default 200) is the number of cases each. What `%p` prints is left out:
a kernel hashes pointers.
"""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass

import pytest

from pybpfvm import bpfsys
from pybpfvm.bits import s64
from pybpfvm.program import BPF_F_RDONLY_PROG, MapType
from tests.support.fake_context import FakeContext

pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(bpfsys.available() is not None, reason=f"bpf(2): {bpfsys.available()}"),
]

_CASES = int(os.environ.get("PYBPFVM_ORACLE_SEQUENCES", "200"))
_OUT, _ARGS, _RESULT, _VALUE_BYTES = 0, 256, 512, 1024
_FORMAT_BYTES = 64
_SNPRINTF = 165
_STRTO = {"strtol": 105, "strtoul": 106}
_DIRTY = b"\xee" * 256


@dataclass(frozen=True)
class Told:
    """r0 of the helper, and the 256 bytes of its output."""

    result: int
    out: bytes


def _insn(opcode: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", opcode, dst | src << 4, off, imm)


def _value_addr(dst: int, map_index: int, offset: int) -> bytes:
    return _insn(0x18, dst, 6, 0, map_index) + _insn(0, imm=offset)


def _move(dst: int, imm: int) -> bytes:
    return _insn(0xB7, dst, imm=imm)


_STORE_RESULT = (
    _insn(0xBF, 6, 0) + _value_addr(1, 0, _RESULT) + _insn(0x7B, 1, 6) + _move(0, 0) + _insn(0x95)
)


def _kernel(code: bytes, data: bytes, text: bytes) -> Told | None:
    """What the kernel's helper did, or None if the verifier refuses the call."""
    with (
        bpfsys.map_create(int(MapType.ARRAY), 4, _VALUE_BYTES, 1) as values,
        bpfsys.map_create(
            int(MapType.ARRAY), 4, _FORMAT_BYTES, 1, flags=BPF_F_RDONLY_PROG
        ) as formats,
    ):
        bpfsys.map_update_elem(formats, bytes(4), text.ljust(_FORMAT_BYTES, b"\0"))
        bpfsys.map_freeze(formats)
        bpfsys.map_update_elem(values, bytes(4), data)
        with bpfsys.prog_load(
            code,
            prog_type=bpfsys.PROG_TYPE_SYSCALL,
            flags=bpfsys.BPF_F_SLEEPABLE,
            map_fds=(values.fileno(), formats.fileno()),
        ) as loaded:
            if loaded.fd is None:
                return None
            bpfsys.prog_test_run(loaded.fd)
        after = bpfsys.map_lookup_elem(values, bytes(4), _VALUE_BYTES)
    (result,) = struct.unpack_from("<q", after, _RESULT)
    return Told(result, after[:256])


def _snprintf_kernel(text: bytes, size: int, args: list[int]) -> Told | None:
    code = (
        _value_addr(1, 0, _OUT)
        + _move(2, size)
        + _value_addr(3, 1, 0)
        + (_value_addr(4, 0, _ARGS) if args else _move(4, 0))
        + _move(5, 8 * len(args))
        + _insn(0x85, imm=_SNPRINTF)
        + _STORE_RESULT
    )
    packed = _DIRTY + struct.pack(f"<{len(args)}Q", *args)
    return _kernel(code, packed.ljust(_VALUE_BYTES, b"\0"), text)


def _snprintf_ours(ctx: FakeContext, text: bytes, size: int, args: list[int]) -> Told | None:
    out = ctx.put(_DIRTY, _OUT)
    data = ctx.put(struct.pack(f"<{len(args)}Q", *args), _ARGS) if args else 0
    result = ctx.run("snprintf", out, size, ctx.put(text + b"\0", 2048), data, 8 * len(args))
    return None if result < 0 else Told(result, ctx.get(256, _OUT))


def _format(rng: random.Random) -> tuple[bytes, int]:
    """A format, and how many arguments to give it."""
    text, count = "", 0
    for _ in range(rng.randrange(1, 5)):
        text += rng.choice(("", "a", " = ", "\t", "\n", "%%"))
        kind = rng.choice((*"dixuX", "c", "ld", "lu", "lx", "lld", "llu", "llx", "llX", "li"))
        if rng.random() < 0.03:
            kind = rng.choice(("f", "n", "lc", "ls", "hd", "lllx", "", "zd", "pq", "*d", "#x"))
        flags = "".join(rng.choice("0+- ") for _ in range(rng.choice((0, 0, 0, 1, 2))))
        width = rng.choice(("", "", "3", "12", "20"))
        text += f"%{flags}{width}{kind}"
        count += 1
    if rng.random() < 0.05:
        text += rng.choice(("\x01", "\x7f", "\xe9", "%"))
    if rng.random() < 0.05:
        count += rng.choice((-1, 1))
    return text.encode("latin-1"), count


def _argument(rng: random.Random) -> int:
    small = rng.randrange(33, 127)
    return rng.choice((small, (1 << 64) - small, 1 << 31, (1 << 63) + 5, rng.getrandbits(64)))


def test_snprintf_agrees() -> None:
    refused = 0
    for seed in range(_CASES):
        rng = random.Random(f"snprintf-{seed}")
        text, count = _format(rng)
        size = rng.choice((1, 2, 10, 64, 256))
        args = [_argument(rng) for _ in range(count)]
        kernel = _snprintf_kernel(text, size, args)
        with FakeContext() as ctx:
            ours = _snprintf_ours(ctx, text, size, args)
        assert ours == kernel, f"seed {seed}: {text!r} {size} {args}"
        refused += kernel is None
    assert refused < _CASES // 2


_DIRECTIVES = (
    "%p %px %pK %ps %pS %pB %p, %pi %pi4 %pI6 %pks %pus %pq %p5 %pi5 %s %5s %pk %-20pi4 %X %lX "
    "%5% %+c %lllx %hd %"
)


@pytest.mark.parametrize("text", _DIRECTIVES.split(" "))
def test_the_same_directives_are_accepted(text: str) -> None:
    kernel = _snprintf_kernel(text.encode(), 64, [0])
    with FakeContext() as ctx:
        ours = _snprintf_ours(ctx, text.encode(), 64, [0])
    assert (ours is None) == (kernel is None)


def _strto_kernel(name: str, text: bytes, flags: int) -> Told | None:
    code = (
        _move(1, 0x77)
        + _insn(0x7B, 10, 1, -8)
        + _value_addr(1, 0, 256)
        + _move(2, len(text))
        + _move(3, flags)
        + _insn(0xBF, 4, 10)
        + _insn(0x07, 4, imm=-8)
        + _insn(0x85, imm=_STRTO[name])
        + _insn(0xBF, 6, 0)
        + _value_addr(1, 0, 0)
        + _insn(0x79, 2, 10, -8)
        + _insn(0x7B, 1, 2)
        + _value_addr(1, 0, _RESULT)
        + _insn(0x7B, 1, 6)
        + _move(0, 0)
        + _insn(0x95)
    )
    return _kernel(code, (bytes(256) + text).ljust(_VALUE_BYTES, b"\0"), b"")


def _number_text(rng: random.Random) -> bytes:
    digits = rng.choice(
        (
            str(rng.getrandbits(rng.choice((4, 16, 63, 64, 65)))),
            hex(rng.getrandbits(rng.choice((8, 63, 64)))),
            oct(rng.getrandbits(rng.choice((8, 64)))).replace("0o", "0"),
            "9223372036854775807",
            "9223372036854775808",
            "9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
            "0x",
            "0X1f",
            "0",
            "",
            "x",
            "08",
            "1" * 70,
            "0" * 66 + "5",
        )
    )
    lead = rng.choice(("", "", "", " ", "\n\t ", "-", " -", "- ", "+", "--"))
    tail = rng.choice(("", "", " ", "g", "\0rest", "a", "_"))
    return (lead + digits + tail).encode() or b" "


@pytest.mark.parametrize("name", _STRTO)
def test_strto_agrees(name: str) -> None:
    for seed in range(_CASES):
        rng = random.Random(f"{name}-{seed}")
        text = _number_text(rng)
        flags = rng.choice((0, 0, 8, 10, 16, 2, 42))
        kernel = _strto_kernel(name, text, flags)
        assert kernel is not None
        with FakeContext() as ctx:
            res = ctx.put(b"\x77" * 8, 64)
            result = ctx.run(name, ctx.put(text, 256), len(text), flags, res)
            value = ctx.get(8, 64)
        where = f"seed {seed}: {text!r} flags {flags}"
        assert (s64(result), value) == (kernel.result, kernel.out[:8]), where
