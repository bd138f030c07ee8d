"""`pybpfvm explain RULE`: what a rule means, a program that breaks it and one that does not."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from pybpfvm.cli.common import print_json
from pybpfvm.program import MapSpec, MapType
from pybpfvm.report.rulebook import Card, Sample, card, finding_of, rule_named
from pybpfvm.report.ruletexts import title
from pybpfvm.report.terminal import heading
from pybpfvm.verifier.explaining.categories import category
from pybpfvm.verifier.verdict import Rule

_WIDTH = 96


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("rule", metavar="RULE", nargs="?", help="its id; without, all are listed")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    rules = [rule_named(args.rule)] if args.rule else list(Rule)
    if args.json:
        print_json("explain/1", {"rules": [_document(card(rule)) for rule in rules]})
    elif args.rule:
        _print(card(rules[0]))
    else:
        _list(rules)
    return 0


def _list(rules: list[Rule]) -> None:
    """All rules in a line each, by category."""
    for name in dict.fromkeys(category(rule) for rule in rules):
        heading(name)
        for rule in rules:
            if category(rule) == name:
                print(f"  {rule.value:<26} {title(rule)}")


def _print(one: Card) -> None:
    heading(f"{one.rule.value}: {one.title}")
    print(f"({category(one.rule)})\n")
    for line in _wrapped(one.meaning):
        print(line)
    heading("\nWhat to do")
    for line in _wrapped(one.mend):
        print(line)
    heading("\nA program that breaks it")
    _print_sample(one.bad)
    finding = finding_of(one.bad, one.rule)
    print()
    for line in (*_wrapped(f"at {finding.pc}: {finding.message}"), *_wrapped(finding.reason)):
        print(f"  {line}")
    heading("\nA program that does not")
    _print_sample(one.good)


def _print_sample(sample: Sample) -> None:
    if sample.says:
        for line in _wrapped(sample.says):
            print(line)
    print(f"  ({sample.profile.name} program, section {sample.program.section})")
    for spec in sample.obj.maps:
        print(f"  ({_map(spec)})")
    for line in sample.text.splitlines():
        print(f"    {line}".rstrip())


def _map(spec: MapSpec) -> str:
    """A map in a line."""
    kind = spec.type.name if isinstance(spec.type, MapType) else spec.type
    parts = [f"map {spec.name}: {kind}", f"max_entries {spec.max_entries}"]
    parts += [f"key_size {spec.key_size}"] if spec.key_size else []
    parts += [f"value_size {spec.value_size}"] if spec.value_size else []
    parts += [f"map_flags {spec.flags:#x}"] if spec.flags else []
    return ", ".join(parts)


def _wrapped(text: str) -> Iterator[str]:
    """Paragraphs of a card, each on lines of its own."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield from textwrap.wrap(paragraph, _WIDTH, break_on_hyphens=False)


def _document(one: Card) -> dict[str, object]:
    finding = finding_of(one.bad, one.rule)
    found = {
        "kind": finding.kind.value,
        "insn": finding.pc,
        "message": finding.message,
        "reason": finding.reason,
    }
    return {
        "rule": one.rule.value,
        "category": category(one.rule),
        "title": one.title,
        "meaning": one.meaning,
        "mend": one.mend,
        "bad": _sample(one.bad) | {"finding": found},
        "good": _sample(one.good),
    }


def _sample(sample: Sample) -> dict[str, object]:
    return {
        "type": sample.profile.name,
        "section": sample.program.section,
        "maps": [_map(spec) for spec in sample.obj.maps],
        "program": sample.text,
        "says": sample.says,
    }
