"""What is known of numbers after each instruction, read from verifier logs, the kernel's and ours;
and programs to compare them on: arithmetic on unknown numbers, with comparisons in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

from pybpfvm.bits import U32, U64, s32, s64
from pybpfvm.verifier.domains.scalar import Scalar
from tests.support.verifier_logs import Entry

_REGISTER = re.compile(r"\bR([678])=((?:scalar\([^)]*(?:\([^)]*\))?[^)]*\))|-?\w+)")
_VAR_OFF = re.compile(r"var_off=\((\w+); (\w+)\)")
_FIELD = re.compile(r"((?:[su](?:min|max)(?:32)?=)+)(-?\w+)")

_SETUP = """
  call ktime_get_ns
  r7 = r0
  call ktime_get_ns
  r8 = r0
  call get_prandom_u32
  r6 = r0
  w6 &= 255
"""
_NUMBERS = (
    *(0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 32, 63, 64, 100, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFF_FFFF, -1, -2, -8, -16, -31, -100, -128, -0x8000, -0x8000_0000),
)
_DIVISORS = (1, 2, 3, 8, 30, -1, -7, 64)


def program(seed: int) -> str:
    """A program in text whose numbers r6 (a byte), r7 and r8 are shown once more at its end."""
    random = Random(seed)
    lines = [_compare(random, registers=True)] if random.random() < 0.7 else []
    if random.random() < 0.3:
        lines.append(f"w7 &= {random.choice((1, 7, 31, 63, 255))}")
    for _ in range(random.randint(2, 6)):
        lines += _compute(random)
    body = "\n".join((*lines, "r7 = r7", "r8 = r8"))
    return f"{_SETUP}{body}\nout:\n  r0 = 0\n  exit\n"


def _compare(random: Random, *, registers: bool = False) -> str:
    """Of two `registers` only while neither comes from the other: arms that are impossible, though
    no range shows it, say strange things."""
    dst, src = random.choice(((7, 8), (8, 7)))
    kind = random.choice("rrw")
    op = random.choice(("==", "!=", "<", ">", "<=", ">=", "s<", "s>", "s<=", "s>=", "&"))
    operand = f"{kind}{src}" if registers and random.random() < 0.4 else random.choice(_NUMBERS)
    return f"if {kind}{dst} {op} {operand} goto out"


def _compute(random: Random) -> list[str]:
    dst, src = random.choice(((7, 8), (8, 7), (7, 7), (8, 8), (7, 6), (8, 6)))
    number, divisor = random.choice(_NUMBERS), random.choice(_DIVISORS)
    kind = random.choice("rw")
    op = random.choice(("+=", "-=", "&=", "|=", "^=", "*="))
    shift = random.choice(("<<=", ">>=", "s>>="))
    count = random.choice((1, 3, 8, 16, 31) if kind == "w" else (1, 3, 8, 16, 31, 32, 33, 48, 63))
    bits = random.choice((8, 16) if kind == "w" else (8, 16, 32))
    stored = random.choice((8, 16, 32, 64))
    loaded = random.choice([bits for bits in (8, 16, 32) if bits <= stored])
    swap, width = random.choice(("be", "le", "bswap")), random.choice((16, 32, 64))
    choices = {
        f"{kind}{dst} {op} {number}": 8,
        f"{kind}{dst} {op} {kind}{src}": 3,
        f"{kind}{dst} {shift} {count}": 3,
        f"{kind}{dst} = -{kind}{dst}": 1,
        f"{kind}{dst} = (s{bits}){kind}{src}": 3,
        f"w{dst} = w{src}": 1,
        f"r{dst} = {swap}{width} r{dst}": 1,
        f"{kind}{dst} {random.choice(('/=', '%=', 's/=', 's%='))} {divisor}": 1,
        f"*(u{stored} *)(r10 - 16) = r{src}\n"
        f"r{dst} = *({random.choice('us')}{loaded} *)(r10 - 16)": 2,
        _compare(random): 2,
    }
    return random.choices(list(choices), list(choices.values()))[0].split("\n")


def scalars(entries: list[Entry]) -> Iterator[tuple[int, str, dict[str, Scalar]]]:
    """(pc, instruction, numbers it used or made) of a log at level 2, up to its first branch's
    end: what is known there hangs on how paths were chosen."""
    for entry in entries:
        if entry.kind == "from":
            return
        if entry.kind == "insn":
            found = _REGISTER.findall(entry.state)
            yield entry.pc, entry.text, {name: scalar(text) for name, text in found}


def scalar(text: str) -> Scalar:
    """The views that the notation of a number names, as they stand there."""
    if not text.startswith("scalar("):
        return Scalar.const(int(text, 0))
    unknown = Scalar.UNKNOWN
    views = {name: getattr(unknown, name) for name in Scalar.__slots__}
    known_bits = _VAR_OFF.search(text)
    if known_bits is not None:
        views["value"], views["mask"] = (int(word, 16) for word in known_bits.groups())
    for names, word in _FIELD.findall(text):
        number = int(word, 0)
        for name in names.rstrip("=").split("="):
            view = f"{name[0]}32{name[1:4]}" if name.endswith("32") else name
            views[view] = _READ[name[0], name.endswith("32")](number)
    return Scalar(**views)


_READ: dict[tuple[str, bool], Callable[[int], int]] = {
    ("s", False): s64,
    ("s", True): s32,
    ("u", False): lambda number: number & U64,
    ("u", True): lambda number: number & U32,
}
