"""The errno with which a kernel refuses to load a program that breaks a rule.

Most refusals are -EACCES; the others were learned from the running kernel, by the corpus of
tests/data/verifier. Where a rule has several places in the kernel with different answers (a lock
touched by a plain load, a dynptr written over), this is the one most often given.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from pybpfvm.verifier.verdict import Rule

_OTHERS: Mapping[int, tuple[Rule, ...]] = {
    errno.EINVAL: (
        Rule.UNREACHABLE,
        Rule.BAD_JUMP,
        Rule.FALL_THROUGH,
        Rule.INFINITE_LOOP,
        Rule.ILLEGAL_INSN,
        Rule.RETURN_VALUE,
        Rule.POINTER_BOUNDS,
        Rule.UNKNOWN_HELPER,
        Rule.HELPER_NOT_ALLOWED,
        Rule.REFERENCE_LEAK,
        Rule.RELEASE_UNOWNED,
        Rule.LOCK,
        Rule.TIMER,
        Rule.OBJECT,
        Rule.ITERATOR,
        Rule.DYNPTR,
        Rule.ARENA,
        Rule.KFUNC_ARG,
        Rule.TRUST,
        Rule.REGION,
        Rule.ATTACH_TARGET,
    ),
    errno.E2BIG: (Rule.CALL_DEPTH, Rule.RECURSION, Rule.BUDGET),
    errno.EPERM: (Rule.CAPABILITY,),
}
_BY_RULE = {rule: number for number, rules in _OTHERS.items() for rule in rules}


def errno_of(rule: Rule) -> int:
    """The positive errno of a program refused by `rule`. abi/iouring-bpf-2021, section 2.1."""
    return _BY_RULE.get(rule, errno.EACCES)
