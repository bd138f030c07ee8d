"""Frames of compiled code begin zeroed, as far as a verified program can see them."""

from __future__ import annotations

import pytest

from pybpfvm.engine import RunEnvironment
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.opcodes import STACK_BYTES
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.memory import RegionKind
from pybpfvm.outline import Outline
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.engines import jit_refusal

pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=str(jit_refusal()))

_FILLED = range(8, STACK_BYTES + 1, 8)

# Two functions in turn have the same frame: the first fills it, the second looks at it.
_BOTH = f"""
    call fill
    call look
    exit
fill:
    r1 = -1
    {"".join(f"*(u64 *)(r10 - {off}) = r1{chr(10)}" for off in _FILLED)}
    r0 = 0
    exit
look:
    r0 = 0
    %s
    exit
"""
_LOOKS = {
    "a byte": ("r1 = *(u8 *)(r10 - 1)\n r0 |= r1", 1),
    "some words": (
        "".join(f"r1 = *(u64 *)(r10 - {off})\n r0 |= r1\n" for off in (8, 72, 40)),
        72,
    ),
    "a word across": ("r1 = *(u64 *)(r10 - 33)\n r0 |= r1", 33),
    "an atomic": ("r1 = 0\n lock *(u64 *)(r10 - 8) += r1\n r0 = *(u64 *)(r10 - 8)", STACK_BYTES),
    "by a pointer": (
        "".join(f"r2 = r10\n r2 += -{off}\n r1 = *(u64 *)(r2 + 0)\n r0 |= r1\n" for off in _FILLED),
        STACK_BYTES,
    ),
    "a pointer kept": (
        "*(u64 *)(r10 - 8) = r10\n r2 = *(u64 *)(r10 - 8)\n r0 = *(u64 *)(r2 - 512)",
        STACK_BYTES,
    ),
}


@pytest.mark.parametrize("look", _LOOKS)
@pytest.mark.parametrize("checks", [Checks.NONE, Checks.EXACT])
def test_nothing_is_left_of_an_earlier_frame(look: str, checks: Checks) -> None:
    code, reach = _LOOKS[look]
    program = Program("frames", "test", assemble(_BOTH % code))
    outline = Outline(program)
    assert outline.frame_bytes(outline.functions[-1]) == reach
    with (
        Image(BpfObject("test", "", (program,), ())) as image,
        JitEngine(image, {}, RunEnvironment(), checks=checks) as engine,
    ):
        ctx = image.memory.alloc(64, RegionKind.CTX, "context")
        assert engine.run(program, ctx.start).r0 == 0
