"""Instructions and helpers that came with a later kernel than the one whose verdict is asked for.

Instructions: Documentation/bpf/standardization (conformance groups) and the kernel's release notes
on bpf. Helpers: the versions in which linux/bpf.h got them; numbers were given out in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Kind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.verdict import Finding, Rule
from pybpfvm.verifier.verdict import Kind as Why

Version = tuple[int, int]

_CPU_V4: Version = (6, 6)
_SINCE: Mapping[Kind | AluOp, Version] = {
    Kind.LDSX: _CPU_V4,
    Kind.MAY_GOTO: (6, 9),
    Kind.ADDR_SPACE_CAST: (6, 9),
    Kind.LOAD_ACQ: (6, 15),
    Kind.STORE_REL: (6, 15),
    **dict.fromkeys((AluOp.SDIV, AluOp.SMOD), _CPU_V4),
    **dict.fromkeys((AluOp.MOVSX8, AluOp.MOVSX16, AluOp.MOVSX32), _CPU_V4),
    **dict.fromkeys((AluOp.BSWAP16, AluOp.BSWAP32, AluOp.BSWAP64), _CPU_V4),
}
# The first version of each group of helpers, and the last number of the group before it.
_HELPERS: tuple[tuple[Version, int], ...] = (((5, 16), 175), ((6, 2), 209))
_LAST_HELPER = 211
_LATEST = max(*_SINCE.values(), *(version for version, _ in _HELPERS))
_SHORT_JUMPS = range(-(1 << 15), 1 << 15)


def newer_code(env: Environment) -> Iterator[Finding]:
    """The instructions and helper calls that the kernel does not know, in order of the code."""
    version = env.rules.version
    if version >= _LATEST:
        return
    for pc, insn in env.code.items():
        since = _insn_since(insn)
        if since is not None and since > version:
            yield _finding(env, Rule.ILLEGAL_INSN, pc, "unknown opcode", "instruction", since)
        if insn.spec.kind is Kind.CALL and env.profile.ring is None:
            since = _helper_since(insn.imm)
            if since is not None and since > version:
                text = f"invalid func unknown#{insn.imm}"
                yield _finding(env, Rule.UNKNOWN_HELPER, pc, text, "helper", since)


def _insn_since(insn: Insn) -> Version | None:
    spec = insn.spec
    if spec.kind is Kind.GOTO and insn.off not in _SHORT_JUMPS:
        return _CPU_V4  # gotol
    return _SINCE.get(spec.kind) or (_SINCE.get(spec.op) if isinstance(spec.op, AluOp) else None)


def _helper_since(number: int) -> Version | None:
    found = [version for version, last in _HELPERS if last < number <= _LAST_HELPER]
    return found[-1] if found else None


def _finding(
    env: Environment, rule: Rule, pc: int, message: str, what: str, since: Version
) -> Finding:
    text = ".".join(map(str, env.rules.version))
    return Finding(
        rule,
        Why.POLICY,
        pc,
        message,
        reason=f"Linux {text} does not have this {what}: it came with {since[0]}.{since[1]}",
        suggestion="compile with -mcpu=v3" if rule is Rule.ILLEGAL_INSN else "",
        source=env.program.line_at(pc),
    )
