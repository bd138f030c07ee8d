"""The kernels that a verdict can be asked for, and what is known to differ between them.

Only what documents state is here: a rule that is not listed is taken to be 6.18's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pybpfvm.verifier.environment import RULES_618, KernelRules

DEFAULT_KERNEL = "6.18"

_FIRST_WRITE = KernelRules(uninit_stack=False, lookup_never_null=False)

KERNELS: Mapping[str, KernelRules] = {
    "5.15": replace(_FIRST_WRITE, version=(5, 15)),
    "6.1": replace(_FIRST_WRITE, version=(6, 1)),
    "6.12": KernelRules(lookup_never_null=False, version=(6, 12)),
    "6.18": RULES_618,
    "7.1": replace(RULES_618, version=(7, 1)),
}
NOTES: Mapping[str, str] = {
    "5.15": "as 6.1; helpers up to number 175",
    "6.1": "as 6.12; no reads of unwritten stack, cpu v4 insns, may_goto; helpers up to 209",
    "6.12": "every map lookup may give NULL; no load-acquire and store-release",
    "6.18": "the default: what the others are compared with",
    "7.1": "no difference from 6.18 is known here",
}
