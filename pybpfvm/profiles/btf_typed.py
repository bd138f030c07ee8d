"""Program types whose arguments are typed by the kernel's BTF: they can be verified, not run.

Which helpers they have is what a kernel (6.18) answered; there is no test of its for LSM programs,
which get those of tracing.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.profiles.base import Profile, SectionRule, Sleepable
from pybpfvm.profiles.detect import matching_section
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.profiles.ordinary import MAINLINE_HELPERS, ORDINARY

_TRACING = next(one for one in ORDINARY if one.name == "raw_tracepoint").helpers
_TRACING_NAMES = {number: name for number, name in MAINLINE_HELPERS.items() if number in _TRACING}
_KTIME_GET_COARSE_NS = 160
_BTF_HELPERS: Mapping[int, str] = {158: "get_current_task_btf", 175: "task_pt_regs"}


def _rules(*kinds: str) -> tuple[SectionRule, ...]:
    """`kind/...`, and `kind.s/...` for sleepable programs."""
    plain = tuple(SectionRule(f"{kind}/") for kind in kinds)
    return plain + tuple(SectionRule(f"{kind}.s/", sleepable=True) for kind in kinds)


def _profile(name: str, number: int, sections: tuple[SectionRule, ...]) -> Profile:
    helpers = {**_TRACING_NAMES, **_BTF_HELPERS}
    if name != "struct_ops":
        del helpers[_KTIME_GET_COARSE_NS]
    return Profile(
        name=name,
        title=f"BPF_PROG_TYPE_{name.upper()}",
        prog_type=number,
        sections=sections,
        ctx_name="u64[]",
        ctx_bytes=0,
        ctx_fields=(),
        helpers=helpers,
        returns=None,
        sleepable=Sleepable.OPTIONAL,
        missing_helpers={
            number: helper for number, helper in MAINLINE_NAMES.items() if number not in helpers
        },
    )


BTF_TYPED = (
    _profile(
        "tracing", 26, (*_rules("fentry", "fexit", "fmod_ret", "iter"), SectionRule("tp_btf/"))
    ),
    _profile("struct_ops", 27, _rules("struct_ops")),
    _profile("lsm", 29, _rules("lsm")),
)


def btf_typed_profile(section: str) -> Profile | None:
    """The profile of programs with BTF arguments that stand in sections of this name."""
    return next((one for one in BTF_TYPED if matching_section(one, section) is not None), None)
