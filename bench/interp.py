"""Instructions per second of the reference interpreter, against the least a Python loop can do.

The yardstick decodes nothing and checks nothing: tuples and an if-chain that know the six
operations of the measured loops. Both run the same instructions, in turn, in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from pybpfvm.engine import RunEnvironment
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, Program
from pybpfvm.vm.interp import Interpreter

_TURNS = 20_000
_ROUNDS = 5
_U64 = (1 << 64) - 1

_ARITHMETIC = f"r1 = {_TURNS}\nr0 += r1\nr0 ^= 91\nr1 += -1\nif r1 != 0 goto -4\nexit"
_MEMORY = (
    f"r1 = {_TURNS}\n*(u64 *)(r10 - 8) = r1\nr2 = *(u64 *)(r10 - 8)\nr0 += r2\nr1 += -1\n"
    "if r1 != 0 goto -5\nexit"
)

_SET, _ADD, _ADD_K, _XOR_K, _JNE, _STORE, _LOAD, _EXIT = range(8)
_Row = tuple[int, int, int, int]
_ARITHMETIC_ROWS: list[_Row] = [
    (_SET, 1, 0, _TURNS),
    (_ADD, 0, 1, 0),
    (_XOR_K, 0, 0, 91),
    (_ADD_K, 1, 0, -1),
    (_JNE, 1, -4, 0),
    (_EXIT, 0, 0, 0),
]
_MEMORY_ROWS: list[_Row] = [
    (_SET, 1, 0, _TURNS),
    (_STORE, 504, 1, 0),
    (_LOAD, 2, 504, 0),
    (_ADD, 0, 2, 0),
    (_ADD_K, 1, 0, -1),
    (_JNE, 1, -5, 0),
    (_EXIT, 0, 0, 0),
]


def _minimal(rows: list[_Row]) -> tuple[int, int]:
    """(r0, instructions executed)."""
    regs = [0] * 11
    stack = bytearray(512)
    pc = executed = 0
    while True:
        code, a, b, imm = rows[pc]
        pc += 1
        executed += 1
        if code == _ADD:
            regs[a] = (regs[a] + regs[b]) & _U64
        elif code == _ADD_K:
            regs[a] = (regs[a] + imm) & _U64
        elif code == _XOR_K:
            regs[a] ^= imm
        elif code == _JNE:
            if regs[a] != imm:
                pc += b
        elif code == _STORE:
            stack[a : a + 8] = regs[b].to_bytes(8, "little")
        elif code == _LOAD:
            regs[a] = int.from_bytes(stack[b : b + 8], "little")
        elif code == _SET:
            regs[a] = imm
        else:
            return regs[0], executed


def run() -> list[tuple[str, float, str]]:
    """Median million instructions per second of both, and interpreter : minimal loop."""
    results: list[tuple[str, float, str]] = []
    for name, text, rows in (
        ("arithmetic", _ARITHMETIC, _ARITHMETIC_ROWS),
        ("half memory", _MEMORY, _MEMORY_ROWS),
    ):
        program = Program(name, "bench", assemble(text))
        with (
            Image(BpfObject("bench", "", (program,), ())) as image,
            Interpreter(image, {}, RunEnvironment()) as engine,
        ):
            ctx = image.memory.alloc(8, RegionKind.CTX, "ctx")

            def interpret(
                engine: Interpreter = engine, program: Program = program, addr: int = ctx.start
            ) -> tuple[int, int]:
                done = engine.run(program, addr)
                return done.r0, done.insns

            def loop(rows: list[_Row] = rows) -> tuple[int, int]:
                return _minimal(rows)

            if interpret() != loop():
                raise AssertionError(f"{name}: the two sides compute different things")
            ours, least = [], []
            for _ in range(_ROUNDS):
                ours.append(_speed(interpret))
                least.append(_speed(loop))
        results += [
            (f"interpreter, {name}", median(ours), "M insns/s"),
            (f"minimal Python loop, {name}", median(least), "M insns/s"),
            (f"interpreter / minimal loop, {name}", median(ours) / median(least), "x"),
        ]
    return results


def _speed(call: Callable[[], tuple[int, int]]) -> float:
    start = time.perf_counter()
    _, executed = call()
    return executed / (time.perf_counter() - start) / 1e6
