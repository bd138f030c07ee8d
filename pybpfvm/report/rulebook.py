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

A program has `says` (what a reader should look at), and where text can not express it `object`,
the name of a compiled object beside the file, with `prog`, and the `source` to show. The tests
judge both programs of every rule: the bad one breaks this rule and the good one none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pybpfvm.errors import InputError, InternalError
from pybpfvm.isa.asm import assemble
from pybpfvm.objectfile import read_object
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.verifier.categories import PROBLEMS
from pybpfvm.verifier.contract_parse import parse_contract
from pybpfvm.verifier.verdict import Finding, Inconclusive, Rejected, Rule, Verdict

RULES = Path(__file__).parent / "rules"


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

    @property
    def category(self) -> str:
        """The category that reports put it in."""
        return PROBLEMS[self.rule][0]


def rule_named(name: str) -> Rule:
    """The rule with this id; InputError with the nearest ones."""
    known = [rule.value for rule in Rule]
    if name in known:
        return Rule(name)
    near = get_close_matches(name[:64].lower(), known)
    remedy = f"did you mean {' or '.join(near)}?" if near else "`pybpfvm explain` lists them all"
    raise InputError(f"no rule is called {name!r}", where="explain", remedy=remedy)


@cache
def card(rule: Rule) -> Card:
    """The card of a rule."""
    path = RULES / f"{rule.value}.toml"
    row = tomllib.loads(path.read_text(encoding="utf-8"))
    return Card(
        rule,
        row["title"],
        row["meaning"].strip(),
        row["mend"].strip(),
        _sample(path, row, row["bad"]),
        _sample(path, row, row["good"]),
    )


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


def _sample(path: Path, row: Mapping[str, Any], sample: Mapping[str, Any]) -> Sample:
    profile = profile_named(sample.get("type", row.get("type", "socket_filter")))
    if "object" in sample:
        obj = read_object(path.parent / sample["object"])
        program = obj.program(sample["prog"])
        text = (path.parent / sample["source"]).read_text(encoding="utf-8")
    else:
        text = sample["code"]
        obj = _assembled(path.stem, text, sample.get("section"), profile, row.get("maps", {}))
        program = obj.programs[0]
    contract = sample.get("contract", row.get("contract"))
    declared = None if contract is None else parse_contract(contract, obj)
    request = JudgeRequest(contract=declared, **sample.get("request", {}))
    return Sample(text.strip("\n"), sample.get("says", ""), program, obj, profile, request)


def _assembled(
    name: str, text: str, section: str | None, profile: Profile, maps: Mapping[str, Any]
) -> BpfObject:
    specs = tuple(
        MapSpec(
            map_name,
            MapType[row["type"]],
            row.get("key", 0),
            row.get("value", 0),
            row["entries"],
            flags=row.get("flags", 0),
        )
        for map_name, row in maps.items()
    )
    helpers = profile.helpers if profile.ring is not None else MAINLINE_NAMES
    insns = assemble(
        text,
        where=name,
        calls={helper: number for number, helper in helpers.items()},
        maps={spec.name: index for index, spec in enumerate(specs)},
    )
    program = Program("sample", section or profile.own_section, insns, license="GPL")
    return BpfObject(f"{name}.toml", "", (program,), specs, license="GPL")
