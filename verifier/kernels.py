"""The kernels that a verdict can be asked for, and what is known to differ between them.

Only what documents state is here: a rule that is not listed is taken to be 6.18's.
"""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.verifier.environment import RULES_618, KernelRules

DEFAULT_KERNEL = "6.18"

KERNELS: Mapping[str, KernelRules] = {
    "5.15": KernelRules(uninit_stack=False, lookup_never_null=False),
    "6.1": KernelRules(uninit_stack=False, lookup_never_null=False),
    "6.12": KernelRules(lookup_never_null=False),
    "6.18": RULES_618,
    "7.1": RULES_618,
}
NOTES: Mapping[str, str] = {
    "5.15": "stack bytes must be written before they are read; every map lookup may give NULL",
    "6.1": "as 5.15",
    "6.12": "every map lookup may give NULL",
    "6.18": "the default: what the others are compared with",
    "7.1": "no difference from 6.18 is known here",
}
