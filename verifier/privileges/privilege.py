"""Which capabilities the loader of a program has, as far as they decide what is accepted.

Others (CAP_NET_ADMIN for types of the network, say) are taken to be there. CAP_SYS_ADMIN stands
for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.errors import InputError


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`bpf`: CAP_BPF; `perfmon`: CAP_PERFMON, which lets programs see addresses and goes
    without the checks against speculative execution."""

    bpf: bool = True
    perfmon: bool = True


ALL = Capabilities()
# The forms of --caps. CAP_PERFMON alone loads nothing more than neither does.
FORMS = {
    "bpf,perfmon": ALL,
    "bpf": Capabilities(perfmon=False),
    "none": Capabilities(bpf=False, perfmon=False),
}


def parse_capabilities(text: str) -> Capabilities:
    """The capabilities that a text such as "bpf,perfmon" lists. Raises InputError."""
    names = ",".join(sorted(part.strip().lower().removeprefix("cap_") for part in text.split(",")))
    if names not in FORMS:
        raise InputError(
            f"{text!r} is no set of capabilities that programs are loaded with",
            where="--caps",
            remedy=f"known: {' | '.join(FORMS)}",
        )
    return FORMS[names]


@dataclass(frozen=True, slots=True)
class Mask:
    """What one instruction adds to pointers, for the mask that keeps it in bounds under
    speculation: `form` (negative, constant, pointer in dst), None for numbers only; `limit`, by
    how many bytes it moves at most."""

    form: tuple[bool, bool, bool] | None
    limit: int


NUMBERS_ONLY = Mask(None, 0)
