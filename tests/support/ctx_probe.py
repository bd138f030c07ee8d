"""The running kernel asked which accesses to a context it allows, and what a load gives.

One program of three instructions for each offset, size and direction; no answer is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Accepted, Inconclusive
from pybpfvm.verifier.verify import Options, verify
from tests.support.kernel_types import Variant

SIZES = {1: "b", 2: "h", 4: "w", 8: "dw"}
_LOADED = re.compile(r"\bR2(?:_\w+)?=(?:P)?([a-z_]+)")

Access = tuple[int, int, bool]  # offset, size, whether it is a store


def accesses(profile: Profile, every_byte: bool) -> Iterator[Access]:
    """Offsets of the whole context and a little more; where not `every_byte`, those aligned to the
    size and the odd one after them."""
    for offset in range(profile.ctx_bytes + 16):
        for size in SIZES:
            if every_byte or offset % size == 0 or offset % 8 == 1:
                yield offset, size, False
                yield offset, size, True


@cache
def program(offset: int, size: int, store: bool) -> tuple[Insn, ...]:
    """The access through r1, the context; r2 is what is loaded. Returns 1."""
    access = (
        Insn(SPECS[f"stx{SIZES[size]}"], dst=1, src=2, off=offset)
        if store
        else Insn(SPECS[f"ldx{SIZES[size]}"], dst=2, src=1, off=offset)
    )
    one = Insn(SPECS["mov64_k"], imm=1)
    return (Insn(SPECS["mov64_k"], dst=2), access, one, Insn(SPECS["exit"]))


@cache
def _code(offset: int, size: int, store: bool) -> bytes:
    return encode(program(offset, size, store))


def kernel_answers(variant: Variant, asked: Iterable[Access]) -> dict[Access, str]:
    """What the kernel says to each: "" refused, "ok" for a store, for a load what r2 is."""
    answers = {}
    for access in asked:
        store = access[2]
        # What a load gives stands in a log only; most loads are refused, which needs none.
        with variant.load(_code(*access)) as loaded:
            answers[access] = "ok" if loaded.accepted else ""
        if answers[access] and not store:
            with variant.load(_code(*access), log_level=2) as loaded:
                found = _LOADED.findall(loaded.log)
                answers[access] = found[-1] if found else "?"
    return answers


class _Loaded(Observer):
    """What r2 is at the end."""

    def __init__(self) -> None:
        self.kind = ""

    def step(self, pc: int, state: State) -> None:
        if pc == 2:
            self.kind = state.frame.regs[2].type.value


def our_answer(variant: Variant, access: Access) -> str:
    """As `kernel_answers`; "unsupported" where we decide nothing."""
    told = Program("probe", variant.section, program(*access), license="GPL")
    seen = _Loaded()
    verdict = verify(
        told,
        BpfObject("probe", "", (told,), ()),
        variant.profile,
        options=Options(observer=seen),
    )
    if isinstance(verdict, Inconclusive):
        return "unsupported"
    if not isinstance(verdict, Accepted):
        return ""
    return "ok" if access[2] else seen.kind
