"""Calls of kernel functions reach what the host knows under their number, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from pybpfvm.engine import Engine, RunEnvironment
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.fuzz.visible import insn
from pybpfvm.helpers.proto import Helper
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.opcodes import Kind
from pybpfvm.isa.table import SPECS
from pybpfvm.jit.engine import JitEngine
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, Program
from pybpfvm.vm.interp import Interpreter

Make = Callable[[Image, Mapping[int, Helper], RunEnvironment], Engine]
both_engines = pytest.mark.parametrize("make", [Interpreter, JitEngine])
CALL = next(name for name, spec in SPECS.items() if spec.kind is Kind.CALL_KFUNC)
KNOWN = {7: HELPERS["get_prandom_u32"], -24: HELPERS["get_prandom_u32"]}


def call(make: Make, number: int, module: int) -> None:
    program = Program("caller", "xdp", (insn(CALL, imm=number, off=module), insn("exit")))
    with Image(BpfObject("object", "", (program,), ())) as image:
        ctx = image.memory.alloc(8, RegionKind.CTX, "context")
        engine = make(image, KNOWN, RunEnvironment())
        try:
            engine.run(image.programs["caller"], ctx.start)
        finally:
            engine.close()


@both_engines
def test_by_its_number(make: Make) -> None:
    call(make, 24, 0)


@both_engines
@pytest.mark.parametrize(("number", "module"), [(-7, 0), (-(1 << 31), 0), (24, 1), (0, 0), (25, 0)])
def test_no_number_of_another(make: Make, number: int, module: int) -> None:
    with pytest.raises(Trap) as trap:
        call(make, number, module)
    assert trap.value.kind is TrapKind.UNSUPPORTED
