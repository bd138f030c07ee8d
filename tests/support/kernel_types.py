"""The running kernel asked about program types: tiny programs, one question each.

`variants()` are the program types and attach types that profiles describe; `ask` loads a program
as one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pybpfvm import bpfsys
from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from pybpfvm.profiles.base import Profile, Sleepable
from pybpfvm.profiles.btf_typed import btf_typed_profile
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.session.attach_target import attach_target
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed


@dataclass(frozen=True, slots=True)
class Variant:
    """A program type as it is for one attach type; `section` is one that means it."""

    profile: Profile
    section: str

    @property
    def id(self) -> str:
        """A name for reports and keys."""
        return f"{self.profile.name}:{self.profile.attach_type}"

    def load(self, code: bytes, *, license: str = "GPL", log_level: int = 0) -> bpfsys.LoadResult:
        """Load encoded instructions as a program of this kind."""
        attach_type, attach_id = self.profile.attach_type, 0
        if is_btf_typed(self.profile):
            attach_type, attach_id = attach_target(self.section)
        sleepable = self.profile.sleepable is Sleepable.REQUIRED
        return bpfsys.prog_load(
            code,
            prog_type=self.profile.prog_type,
            expected_attach_type=attach_type,
            attach_btf_id=attach_id,
            flags=bpfsys.BPF_F_SLEEPABLE if sleepable else 0,
            license=license,
            log_level=log_level,
        )


def variants() -> tuple[Variant, ...]:
    """Every ordinary type, once for each attach type that differs."""
    return tuple(
        Variant(one, one.own_section)
        for profile in ORDINARY
        for one in (profile, *profile.variants)
    )


def btf_variants() -> tuple[Variant, ...]:
    """Types with BTF arguments, as far as every machine lets programs of them be loaded."""
    tracing = btf_typed_profile("tp_btf/sched_switch")
    struct_ops = btf_typed_profile("struct_ops/")
    assert tracing is not None
    assert struct_ops is not None
    sections = ("tp_btf/sched_switch", "iter/task")
    return (
        *(Variant(tracing.for_section(section), section) for section in sections),
        Variant(struct_ops, "struct_ops/tcp_congestion_ops/ssthresh"),
    )


_NOT_OFFERED = re.compile(
    r"program of this type cannot use helper|(?:invalid|unknown) func|func \w+#\d+ not supported"
    r"|helper call is not allowed in probe"
)


def offered_helpers(variant: Variant) -> frozenset[str]:
    """The helpers that the kernel offers to programs of this kind. Takes a few milliseconds.

    A call with registers that were not set is refused whatever it calls; how tells the rest.
    """
    return frozenset(
        name
        for number, name in MAINLINE_NAMES.items()
        if number and not _NOT_OFFERED.search(answer(variant, number))
    )


def answer(variant: Variant, number: int, *, license: str = "GPL") -> str:
    """The kernel's log on a program that only calls a helper, "" if it takes it."""
    with variant.load(_CALLS[number], license=license, log_level=1) as loaded:
        return "" if loaded.accepted else loaded.log


def _calls() -> Iterator[tuple[int, bytes]]:
    for number in MAINLINE_NAMES:
        yield (
            number,
            encode(
                (
                    Insn(SPECS["call"], imm=number),
                    Insn(SPECS["mov64_k"], imm=1),
                    Insn(SPECS["exit"]),
                )
            ),
        )


_CALLS = dict(_calls())
