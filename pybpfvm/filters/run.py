"""Running a filter over a context, with an account of what it did.

Words are in host byte order, as for seccomp: little-endian here. All arithmetic is modulo 2**32;
a shift by X takes its low 5 bits, a division by X = 0 ends the program with 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pybpfvm.bits import u32
from pybpfvm.errors import InputError
from pybpfvm.filters.cbpf import SCRATCH_WORDS, Insn, Kind, Mode, Spec
from pybpfvm.filters.check import check

_ALU: Final[Mapping[str, Callable[[int, int], int]]] = {
    "add": lambda a, b: u32(a + b),
    "sub": lambda a, b: u32(a - b),
    "mul": lambda a, b: u32(a * b),
    "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "or": lambda a, b: a | b,
    "and": lambda a, b: a & b,
    "lsh": lambda a, b: u32(a << (b & 31)),
    "rsh": lambda a, b: a >> (b & 31),
    "xor": lambda a, b: a ^ b,
}
_HOLDS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "jeq": lambda a, b: a == b,
    "jgt": lambda a, b: a > b,
    "jge": lambda a, b: a >= b,
    "jset": lambda a, b: a & b != 0,
}


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction that was executed: A and X afterwards; `taken` of a branch, else None."""

    index: int
    a: int
    x: int
    taken: bool | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """A run: what the program returned (not 0: the request is allowed), and its steps."""

    result: int
    steps: tuple[Step, ...]


def run(insns: Sequence[Insn], context: bytes) -> Ran:
    """Run a filter. Raises InputError for one that no kernel takes."""
    problems = check(insns)
    if problems:
        first = problems[0]
        where = "" if first.index is None else f"l{first.index}"
        raise InputError(first.reason, where=where, remedy=first.remedy)
    return run_checked(insns, context)


def run_checked(insns: Sequence[Insn], context: bytes) -> Ran:
    """The same for a program that `check` found nothing wrong with."""
    a = x = index = 0
    scratch = [0] * SCRATCH_WORDS
    steps: list[Step] = []
    while True:
        insn = insns[index]
        spec = insn.spec
        assert spec is not None
        at, index = index, index + 1
        taken: bool | None = None
        match spec.kind:
            case Kind.LOAD_A:
                a = _loaded(spec, insn.k, context, scratch)
            case Kind.LOAD_X:
                x = _loaded(spec, insn.k, context, scratch)
            case Kind.STORE_A:
                scratch[insn.k] = a
            case Kind.STORE_X:
                scratch[insn.k] = x
            case Kind.ALU:
                operand = x if spec.mode is Mode.X else insn.k
                if spec.op in ("div", "mod") and operand == 0:
                    steps.append(Step(at, a, x))
                    return Ran(0, tuple(steps))
                a = _ALU[spec.op](a, operand)
            case Kind.NEG:
                a = u32(-a)
            case Kind.TAX:
                x = a
            case Kind.TXA:
                a = x
            case Kind.JUMP:
                index += insn.k
            case Kind.BRANCH:
                taken = _HOLDS[spec.op](a, x if spec.mode is Mode.X else insn.k)
                index += insn.jt if taken else insn.jf
            case Kind.RETURN:
                steps.append(Step(at, a, x))
                return Ran(a if spec.mode is Mode.A else insn.k, tuple(steps))
        steps.append(Step(at, a, x, taken))


def _loaded(spec: Spec, k: int, context: bytes, scratch: Sequence[int]) -> int:
    match spec.mode:
        case Mode.IMM:
            return k
        case Mode.LEN:
            return len(context)
        case Mode.SCRATCH:
            return scratch[k]
        case _:
            return int.from_bytes(context[k : k + 4], "little")
