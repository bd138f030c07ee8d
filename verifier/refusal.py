"""How a rule says no inside the verifier: raised where it is checked, caught by the explorer.

Nothing outside the verifier sees it: `verify` answers with a verdict.
"""

from __future__ import annotations

from pybpfvm.verifier.states.regstate import Reg
from pybpfvm.verifier.verdict import Kind, Rule


class Refused(Exception):
    """A broken rule. `culprit` is the register whose history explains it.

    `bounds`: the least and the greatest number that the culprit, or what was added to it if it is
    a pointer, may be. `certain`: every run that comes here breaks the rule, whatever the values
    of its registers within what is known of them.
    """

    def __init__(
        self,
        rule: Rule,
        message: str,
        *,
        reason: str = "",
        suggestion: str = "",
        culprit: Reg | None = None,
        bounds: tuple[int, int] | None = None,
        certain: bool = False,
        kind: Kind = Kind.UNPROVEN,
        feature: str = "",
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.reason = reason
        self.suggestion = suggestion
        self.culprit = culprit
        self.bounds = bounds
        self.certain = certain
        self.kind = kind
        self.feature = feature


def forbidden(
    rule: Rule,
    message: str,
    *,
    reason: str = "",
    suggestion: str = "",
    culprit: Reg | None = None,
) -> Refused:
    """What the kernel does not allow, whether or not it would do harm."""
    return Refused(
        rule, message, reason=reason, suggestion=suggestion, culprit=culprit, kind=Kind.POLICY
    )


def possibly_null(message: str, number: int, reg: Reg, but: str = "") -> Refused:
    """r`number` may be NULL, which the call does not take. `but` ends the advice."""
    return Refused(
        Rule.POSSIBLY_NULL,
        message,
        reason=f"r{number} may be NULL",
        suggestion=f"compare r{number} with 0 first{but}",
        culprit=reg,
    )


def unsupported(feature: str) -> Refused:
    """What this verifier can not judge yet."""
    return Refused(
        Rule.UNSUPPORTED,
        f"unsupported: {feature}",
        reason=f"this verifier can not judge {feature} yet, so it decides nothing",
        kind=Kind.UNSUPPORTED,
        feature=feature,
    )
