"""What each rule of the verifier means, with a program that breaks it and one that does not.

One file per rule, `rules/RULE-ID.toml`:

```toml
title   = "A pointer that may be NULL is dereferenced"
meaning = "why there is such a rule, and what would happen without it"
mend    = "what to write instead"
type    = "socket_filter"   # profile of both programs, unless one names its own

[maps.counts]               # maps that the programs may name
type = "ARRAY"
key = 4
value = 8
entries = 16

[bad]
code = "text of docs/isa.md; helpers by name, maps as map[counts]"

[good]
code = "the smallest change that keeps the rule"
```

A program has `says` (what a reader should look at), and may have `type`, `section` (which tells the
type where that has arguments from BTF), `license`, `contract` (docs/contracts.md) and `request`
(fields of `JudgeRequest`) of its own; maps have `flags`, `extra` (map_extra) and `holds`, the
struct that their values are. Kernel objects are those of `kernel.btf`, which is made from
`kernel.bpf.c` beside it, so that a card reads the same on every machine: texts say `call kfunc
NAME` and `[struct.member]`, and `[struct NAME]` for the id of a program's own struct. `caps` is
what the loader has, as for `verify --caps`; `ring` the ring of a program with a loop, as for
`doctor --ring`: its kernel functions are those of its profile.
The tests judge both programs of every rule: the bad one breaks this rule first, the good one none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache

from pybpfvm.btf.parse import parse_btf
from pybpfvm.btf.types import Btf, BtfKind, Struct
from pybpfvm.errors import InputError, InternalError
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import btf_typed_profile
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.report.ruletexts import RULES, Row, meaning, mend, row, title
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.uring_backend.loop.shape import parse_setup, shape_of
from pybpfvm.verifier.privileges.privilege import ALL, parse_capabilities
from pybpfvm.verifier.usermemory.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Finding, Inconclusive, Rejected, Rule, Verdict

_KFUNC = re.compile(r"\bcall kfunc (\w+)")
_MEMBER = re.compile(r"\[(\w+)\.(\w+)\]")
_STRUCT = re.compile(r"\[struct (\w+)\]")


@dataclass(frozen=True, slots=True)
class Sample:
    """A program of a rule's card. `text` is what to show of it, `says` what to look at in it."""

    text: str
    says: str
    program: Program
    obj: BpfObject
    profile: Profile
    request: JudgeRequest

    def verdict(self) -> Verdict:
        """What the verifier says of it."""
        return judge(self.program, self.obj, self.profile, self.request)


@dataclass(frozen=True, slots=True)
class Card:
    """What there is to know of one rule."""

    rule: Rule
    title: str
    meaning: str
    mend: str
    bad: Sample
    good: Sample


def rule_named(name: str) -> Rule:
    """The rule with this id; InputError with the nearest ones."""
    known = [rule.value for rule in Rule]
    if name in known:
        return Rule(name)
    near = get_close_matches(name[:64].lower(), known)
    remedy = f"did you mean {' or '.join(near)}?" if near else "`pybpfvm explain` lists them all"
    raise InputError(f"no rule is called {name[:64]!r}", where="explain", remedy=remedy)


@cache
def card(rule: Rule, kernel: Btf | None = None) -> Card:
    """The card of a rule. `kernel`: another kernel's types than those that cards come with."""
    own = row(rule)
    name = rule.value
    bad, good = (
        _sample(name, own, own[which], kernel or _own_kernel()) for which in ("bad", "good")
    )
    return Card(rule, title(rule), meaning(rule), mend(rule), bad, good)


def finding_of(sample: Sample, rule: Rule) -> Finding:
    """The finding of `rule` in the verdict on a sample that breaks it."""
    verdict = sample.verdict()
    found: tuple[Finding, ...] = verdict.warnings
    if isinstance(verdict, Rejected):
        found = (*verdict.errors, *found)
    elif isinstance(verdict, Inconclusive):
        found = (verdict.finding, *found)
    for one in found:
        if one.rule is rule:
            return one
    raise InternalError(f"the sample of {rule.value} breaks another rule: {found}")


@cache
def _own_kernel() -> Btf:
    return parse_btf((RULES / "kernel.btf").read_bytes(), where="kernel.btf")


def _sample(name: str, card_row: Row, own: Row, kernel: Btf) -> Sample:
    """`own` is the table of the program, `card_row` the card it is part of."""
    merged = {**card_row, **own}
    typed = btf_typed_profile(merged.get("section", "")) if "type" not in merged else None
    profile = typed or profile_named(merged.get("type", "socket_filter"))
    kernel = kernel_btf_of(profile) or kernel
    section = merged.get("section", profile.own_section)
    maps = tuple(_map(spec, content) for spec, content in merged.get("maps", {}).items())
    helpers = profile.helpers if profile.ring is not None else MAINLINE_NAMES
    insns = assemble(
        _with_ids(own["code"], kernel),
        where=name,
        calls={helper: number for number, helper in helpers.items()},
        maps={spec.name: index for index, spec in enumerate(maps)},
    )
    license = merged.get("license", "GPL")
    program = Program("sample", section, insns, subprogs=_functions(insns), license=license)
    obj = BpfObject(f"{name}.toml", "", (program,), maps, btf=_own_kernel(), license=license)
    contract = None if "contract" not in merged else parse_contract(merged["contract"], obj)
    caps = parse_capabilities(merged["caps"]) if "caps" in merged else ALL
    own_fields = merged.get("request", {})
    ring = shape_of(*parse_setup(merged["ring"])) if "ring" in merged else None
    request = JudgeRequest(contract=contract, btf=kernel, caps=caps, ring=ring, **own_fields)
    return Sample(own["code"].strip("\n"), own.get("says", ""), program, obj, profile, request)


def _map(name: str, declared: Row) -> MapSpec:
    spec = MapSpec(
        name,
        MapType[declared["type"]],
        declared.get("key", 0),
        declared.get("value", 0),
        declared["entries"],
        flags=declared.get("flags", 0),
        map_extra=declared.get("extra", 0),
    )
    if "holds" not in declared:
        return spec
    types = _own_kernel()
    key, value = types.find("int"), types.find(declared["holds"], BtfKind.STRUCT)
    assert key is not None
    assert value is not None
    return replace(spec, btf_key_type_id=key, btf_value_type_id=value)


def _with_ids(text: str, kernel: Btf) -> str:
    """The text with the kernel's ids of functions and offsets of members instead of names, and the
    ids that structs have in the object."""

    def function(match: re.Match[str]) -> str:
        return f"call kfunc {match[1]}#{kernel.find(match[1], BtfKind.FUNC) or 0}"

    def offset(match: re.Match[str]) -> str:
        found = kernel.type(kernel.find(match[1], BtfKind.STRUCT) or 0)
        members = found.members if isinstance(found, Struct) else ()
        return str(next(one.bit_offset // 8 for one in members if one.name == match[2]))

    def struct(match: re.Match[str]) -> str:
        return str(_own_kernel().find(match[1], BtfKind.STRUCT) or 0)

    return _STRUCT.sub(struct, _MEMBER.sub(offset, _KFUNC.sub(function, text)))


def _functions(insns: tuple[Insn, ...]) -> tuple[Subprog, ...]:
    """The program's functions: they begin where calls lead to."""
    starts, pc = {0}, 0
    for insn in insns:
        if insn.spec.kind is InsnKind.CALL_LOCAL:
            starts.add(pc + 1 + insn.imm)
        pc += insn.slots
    ordered = sorted(starts)
    sample = _own_kernel().find("sample", BtfKind.FUNC) or 0
    return tuple(
        Subprog(f"function_{start}", start, end)
        if start
        else Subprog("sample", 0, end, btf_type_id=sample if len(ordered) == 1 else 0)
        for start, end in zip(ordered, [*ordered[1:], pc], strict=True)
    )
