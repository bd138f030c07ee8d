"""`pybpfvm explain RULE`: what a rule means, a program that breaks it and one that does not."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from pybpfvm.cli.common import print_json
from pybpfvm.report.rulebook import Card, Sample, card, finding_of, rule_named
from pybpfvm.report.terminal import heading, table
from pybpfvm.verifier.verdict import Rule

_WIDTH = 96


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rule", metavar="RULE", nargs="?", help="its id; without, all are listed")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    rules = [rule_named(args.rule)] if args.rule else list(Rule)
    cards = [card(rule) for rule in rules]
    if args.json:
        print_json("explain/1", {"rules": [_document(one) for one in cards]})
    elif args.rule:
        _print(cards[0])
    else:
        rows = [(one.rule.value, one.category, one.title) for one in cards]
        table(("rule", "category", "what is wrong"), rows)
    return 0


def _print(one: Card) -> None:
    heading(f"{one.rule.value}: {one.title}")
    print(f"({one.category})\n")
    for line in _wrapped(one.meaning):
        print(line)
    heading("\nWhat to do")
    for line in _wrapped(one.mend):
        print(line)
    heading("\nA program that breaks it")
    _print_sample(one.bad)
    finding = finding_of(one.bad, one.rule)
    print(f"\n  at {finding.pc}: {finding.message}")
    for line in _wrapped(finding.reason):
        print(f"  {line}")
    heading("\nA program that does not")
    _print_sample(one.good)


def _print_sample(sample: Sample) -> None:
    if sample.says:
        print(textwrap.fill(sample.says, _WIDTH))
    print(f"  ({sample.profile.name})")
    for line in sample.text.splitlines():
        print(f"    {line}".rstrip())


def _wrapped(text: str) -> Iterator[str]:
    """Paragraphs of a card, each on lines of its own."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield from textwrap.wrap(paragraph, _WIDTH)


def _document(one: Card) -> dict[str, object]:
    finding = finding_of(one.bad, one.rule)
    return {
        "rule": one.rule.value,
        "category": one.category,
        "title": one.title,
        "meaning": one.meaning,
        "mend": one.mend,
        "bad": {
            "type": one.bad.profile.name,
            "program": one.bad.text,
            "says": one.bad.says,
            "insn": finding.pc,
            "message": finding.message,
            "reason": finding.reason,
        },
        "good": {
            "type": one.good.profile.name,
            "program": one.good.text,
            "says": one.good.says,
        },
    }
