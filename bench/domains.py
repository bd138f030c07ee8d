"""Operations per second of the verifier's numeric domains, next to an empty call of Python.

Operands are what verified programs mostly have: constants, a byte from memory, an unknown word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from pybpfvm.isa.opcodes import AluOp, JmpOp
from pybpfvm.verifier.domains.alu import transfer_of
from pybpfvm.verifier.domains.branch import arms_of
from pybpfvm.verifier.domains.scalar import Scalar, is_subsumed_by, load_result

_TURNS = 5_000
_ROUNDS = 5

_BYTE = load_result(1, False)
_WORD = load_result(4, False)
_SIGNED = load_result(4, True)
_EIGHT = Scalar.const(8)
_SIXTY = Scalar.const(60)
_MINUS_ONE = Scalar.const(-1)

_Operation = Callable[[Scalar, Scalar], object]


def _empty(a: Scalar, b: Scalar) -> Scalar:
    return a


def _both_arms(op: JmpOp, width: int) -> _Operation:
    taken, not_taken = arms_of(op, width)

    def arms(a: Scalar, b: Scalar) -> object:
        return taken(a, b), not_taken(a, b)

    return arms


_CASES: tuple[tuple[str, _Operation, Scalar, Scalar], ...] = (
    ("empty call", _empty, _BYTE, _EIGHT),
    ("add64 constants", transfer_of(AluOp.ADD, 64), _SIXTY, _EIGHT),
    ("add32 constants", transfer_of(AluOp.ADD, 32), _SIXTY, _EIGHT),
    ("add64 byte, constant", transfer_of(AluOp.ADD, 64), _BYTE, _EIGHT),
    ("add64 byte, -1", transfer_of(AluOp.ADD, 64), _BYTE, _MINUS_ONE),
    ("add64 s32, u32", transfer_of(AluOp.ADD, 64), _SIGNED, _WORD),
    ("add64 unknown, constant", transfer_of(AluOp.ADD, 64), Scalar.UNKNOWN, _EIGHT),
    ("and64 unknown, constant", transfer_of(AluOp.AND, 64), Scalar.UNKNOWN, _SIXTY),
    ("lsh64 byte, constant", transfer_of(AluOp.LSH, 64), _BYTE, _EIGHT),
    ("mul64 unknown, unknown", transfer_of(AluOp.MUL, 64), Scalar.UNKNOWN, Scalar.UNKNOWN),
    ("jlt64 byte, constant", _both_arms(JmpOp.JLT, 64), _BYTE, _EIGHT),
    ("jgt64 unknown, constant", _both_arms(JmpOp.JGT, 64), Scalar.UNKNOWN, _SIXTY),
    ("jne64 constants", _both_arms(JmpOp.JNE, 64), _SIXTY, _EIGHT),
    ("jslt32 u32, constant", _both_arms(JmpOp.JSLT, 32), _WORD, _SIXTY),
    ("is_subsumed_by", is_subsumed_by, _BYTE, _WORD),
)


def run() -> list[tuple[str, float, str]]:
    """Millions of operations per second; a branch counts once for both of its arms."""
    times: dict[str, list[float]] = {name: [] for name, *_ in _CASES}
    for _ in range(_ROUNDS):
        for name, operation, a, b in _CASES:
            start = time.perf_counter()
            for _ in range(_TURNS):
                operation(a, b)
            times[name].append(time.perf_counter() - start)
    return [(name, _TURNS / median(taken) / 1e6, "M/s") for name, taken in times.items()]
