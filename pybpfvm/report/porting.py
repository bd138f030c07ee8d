"""What a port asks for, for people and machines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from pybpfvm.errors import SourceLine
from pybpfvm.porting.changes import Change
from pybpfvm.porting.places import Places
from pybpfvm.porting.port import Port
from pybpfvm.porting.skeleton import Piece
from pybpfvm.porting.survey import Fact

_WIDTH = 100
_OLD = 48  # columns of the old program
_GAP = " | "


def change_lines(found: Sequence[Change]) -> Iterator[str]:
    """Changes by topic, with their places."""
    for topic in dict.fromkeys(change.topic for change in found):
        yield f"  {topic}"
        for change in found:
            if change.topic != topic:
                continue
            places = f"{', '.join(change.places)}: " if change.places else ""
            yield from textwrap.wrap(
                f"{places}{change.text}",
                _WIDTH,
                initial_indent="    - ",
                subsequent_indent="      ",
                break_on_hyphens=False,
            )


def side_by_side(pieces: Sequence[Piece], old: str, new: str) -> Iterator[str]:
    """The old program's lines, and beside each the skeleton's."""
    yield f"  {old:{_OLD}}{_GAP}{new}"
    yield f"  {'-' * _OLD}{_GAP}{'-' * (_WIDTH - _OLD - len(_GAP) - 2)}"
    for piece in pieces:
        was = f"{piece.place}: {piece.old}" if piece.old else ""
        left = textwrap.wrap(was, _OLD, subsequent_indent="    ", break_on_hyphens=False)
        right = [line.replace("\t", "    ") for line in piece.new]
        for index in range(max(len(left), len(right))):
            one = left[index] if index < len(left) else ""
            two = right[index] if index < len(right) else ""
            yield f"  {one:{_OLD}}{_GAP}{two}".rstrip()


def document(one: Port) -> dict[str, object]:
    """One program for machines."""
    seen = one.seen
    places = Places(seen.program)
    return {
        "name": seen.program.name,
        "from": seen.profile.name,
        "note": one.note,
        "complete": seen.complete,
        "why_not": seen.why_not,
        "changes": [
            {"topic": change.topic, "text": change.text, "places": list(change.places)}
            for change in one.changes
        ],
        "facts": [_fact(fact, places.line(fact.pc)) for fact in seen.facts],
        "skeleton": one.skeleton.text,
    }


def _fact(fact: Fact, line: SourceLine | None) -> dict[str, object]:
    return {
        "insn": fact.pc,
        "does": fact.does.name.lower(),
        "helper": fact.helper,
        "line": None if line is None else line.line,
        "values": {
            name: None if known is None else sorted(known) for name, known in fact.values.items()
        },
        "sources": {name: text for name, text in fact.sources.items() if text},
    }
