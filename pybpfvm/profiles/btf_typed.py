"""Program types whose arguments are typed by the kernel's BTF: they can be verified, not run.

Which helpers they have is what a kernel (6.18) answered for tp_btf and iterators (what both have,
all of tracing has), and for the functions of tcp_congestion_ops. There is no such answer for LSM
programs: they get what of tracing's can be executed here. Whatever else there is depends on what a
program is attached to, and is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pybpfvm.profiles.availability import offered
from pybpfvm.profiles.base import Profile, SectionRule, Sleepable
from pybpfvm.profiles.detect import matching_section
from pybpfvm.profiles.mainline import MAINLINE_NAMES, NUMBERS
from pybpfvm.profiles.ordinary import MAINLINE_HELPERS

_FENTRY, _FEXIT, _FMOD_RET, _TP_BTF, _ITER, _LSM = 24, 25, 26, 23, 28, 27


def _rules(kind: str, attach_type: int) -> tuple[SectionRule, ...]:
    """`kind/...`, and `kind.s/...` for sleepable programs."""
    return (
        SectionRule(f"{kind}/", attach_type=attach_type),
        SectionRule(f"{kind}.s/", sleepable=True, attach_type=attach_type),
    )


def _helpers(name: str, attach_type: int) -> Mapping[int, str]:
    return {NUMBERS[helper]: helper for helper in offered(name, attach_type)}


def _profile(
    name: str,
    number: int,
    sections: tuple[SectionRule, ...],
    helpers: Mapping[int, str],
    attach_type: int = 0,
) -> Profile:
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
        missing_helpers=_others(helpers),
        runs=False,
        attach_type=attach_type,
    )


def _others(helpers: Mapping[int, str]) -> Mapping[int, str]:
    return {number: name for number, name in MAINLINE_NAMES.items() if number not in helpers}


def _tracing() -> Profile:
    sections = (
        *_rules("fentry", _FENTRY),
        *_rules("fexit", _FEXIT),
        *_rules("fmod_ret", _FMOD_RET),
        *_rules("iter", _ITER),
        SectionRule("tp_btf/", attach_type=_TP_BTF),
    )
    profile = _profile("tracing", 26, sections, _helpers("tracing", _FENTRY), _FENTRY)
    variants = []
    for attach_type in (_FEXIT, _FMOD_RET, _TP_BTF, _ITER):
        helpers = _helpers("tracing", attach_type)
        missing = _others(helpers)
        variants.append(
            replace(profile, helpers=helpers, missing_helpers=missing, attach_type=attach_type)
        )
    return replace(profile, variants=tuple(variants))


_TRACING = _tracing()
_OF_LSM = {n: name for n, name in MAINLINE_HELPERS.items() if n in _TRACING.helpers}
_OF_LSM.update({NUMBERS[name]: name for name in ("get_current_task_btf", "task_pt_regs")})
BTF_TYPED = (
    _TRACING,
    _profile("struct_ops", 27, _rules("struct_ops", 0), _helpers("struct_ops", 0)),
    _profile("lsm", 29, _rules("lsm", _LSM), _OF_LSM, _LSM),
)


def btf_typed_profile(section: str) -> Profile | None:
    """The profile of programs with BTF arguments that stand in sections of this name."""
    return next((one for one in BTF_TYPED if matching_section(one, section) is not None), None)
