"""The kernels that a verdict can be asked for, and what is known to differ between them."""

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
