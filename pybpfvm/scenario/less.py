"""A scenario with less data: what its blocks, files and messages hold is cut, by short keys.

    b0, b1, ...    the blocks, in the scenario's order
    f0, f1, ...    the files
    s0, s1, ...    what step 0, 1, ... writes, sends or receives

Structs, paths and addresses are one piece: they have no key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pybpfvm.errors import InputError
from pybpfvm.scenario.content import fixed_size
from pybpfvm.scenario.model import (
    Check,
    Content,
    Expect,
    Fill,
    Joined,
    PeerRecv,
    PeerSend,
    Raw,
    Scenario,
    Step,
    Words,
    Write,
)

_STOPS: Final = ("hang", "trap", "load_error", "overflow")  # keys of [expect] that stay


def data_of(scenario: Scenario) -> dict[str, int]:
    """What can be cut: its bytes, by key."""
    return {key: size for key, content in _contents(scenario) if (size := fixed_size(content))}


def cut(scenario: Scenario, sizes: Mapping[str, int]) -> Scenario:
    """The scenario whose data `sizes` names hold that many bytes, whole words, at the most.
    InputError for a key that it does not have."""
    known = data_of(scenario)
    for key in sizes:
        if key not in known:
            raise InputError(
                f"there is no {key} to cut",
                where=f"{scenario.path}: schedule",
                remedy=f"what can be cut: {', '.join(known) or 'nothing'}",
            )

    def less(key: str, content: Content) -> Content:
        return _cut(content, sizes[key]) if key in sizes else content

    def of_step(at: int, step: Step) -> Step:
        action = step.action
        if isinstance(action, Write | PeerSend | PeerRecv):
            return replace(step, action=replace(action, content=less(f"s{at}", action.content)))
        return step

    return replace(
        scenario,
        blocks={n: less(f"b{at}", one) for at, (n, one) in enumerate(scenario.blocks.items())},
        files={n: less(f"f{at}", one) for at, (n, one) in enumerate(scenario.files.items())},
        steps=tuple(of_step(at, step) for at, step in enumerate(scenario.steps)),
    )


def bare(scenario: Scenario) -> Scenario:
    """The scenario without its expectations, but how it stops, lost CQEs and invariants."""
    return replace(
        scenario,
        expect=_bare(scenario.expect),
        steps=tuple(
            replace(step, action=Check(Expect())) if isinstance(step.action, Check) else step
            for step in scenario.steps
        ),
    )


def cut_tree(tree: dict[str, Any], scenario: Scenario, sizes: Mapping[str, int]) -> None:
    """Do the same to the TOML that `scenario` was read from."""
    places: dict[str, dict[str, Any]] = {}
    for letter, table in (("b", tree.get("user", {})), ("f", tree.get("files", {}))):
        names = scenario.blocks if letter == "b" else scenario.files
        places |= {f"{letter}{at}": table[name] for at, name in enumerate(names) if name in table}
    places |= {f"s{at}": step for at, step in enumerate(tree.get("steps", ()))}
    contents = dict(_contents(scenario))
    for key, size in sizes.items():
        _cut_table(places[key], contents[key], size)


def bare_tree(tree: dict[str, Any]) -> None:
    """The same as `bare`, of a TOML document."""
    expect = tree.get("expect", {})
    kept = {key: value for key, value in expect.items() if key in _STOPS}
    rings = {
        name: {"overflow": of["overflow"]}
        for name, of in expect.get("rings", {}).items()
        if "overflow" in of
    }
    tree.pop("expect", None)
    if kept or rings:
        tree["expect"] = kept | ({"rings": rings} if rings else {})
    for step in tree.get("steps", ()):
        if "check" in step:
            step["check"] = {}


def _contents(scenario: Scenario) -> Iterator[tuple[str, Content]]:
    for at, content in enumerate(scenario.blocks.values()):
        yield f"b{at}", content
    for at, content in enumerate(scenario.files.values()):
        yield f"f{at}", content
    for at, step in enumerate(scenario.steps):
        if isinstance(step.action, Write | PeerSend | PeerRecv):
            yield f"s{at}", step.action.content


def _cut(content: Content, size: int) -> Content:
    match content:
        case Raw():
            return Raw(content.data[:size])
        case Fill():
            return Fill(content.byte, min(size, content.size))
        case Words():
            return Words(content.width, content.values[: max(size // content.width, 1)])
        case Joined():
            parts, left = [], size
            for part in content.parts:
                if left:
                    parts.append(_cut(part, left))
                    left = max(left - fixed_size(part), 0)
            return Joined(tuple(parts))
    return content


def _cut_table(table: dict[str, Any], content: Content, size: int) -> None:
    less = _cut(content, size)
    match less:
        case Raw():
            for key in ("text", "file"):
                table.pop(key, None)
            table["bytes"] = less.data.hex()
        case Fill():
            table["zero" if "zero" in table else "size"] = less.size
        case Words():
            if "timespec_ns" in table:
                del table["timespec_ns"]
                table["s64"] = list(less.values)
            for key, value in table.items():
                if isinstance(value, list):
                    table[key] = value[: len(less.values)]
        case Joined():
            assert isinstance(content, Joined)
            parts, left = [], size
            for part, whole in zip(table["parts"], content.parts, strict=True):
                if left:
                    _cut_table(part, whole, left)
                    parts.append(part)
                    left = max(left - fixed_size(whole), 0)
            table["parts"] = parts


def _bare(expect: Expect) -> Expect:
    return Expect(
        overflow=expect.overflow,
        hang=expect.hang,
        trap=expect.trap,
        load_errno=expect.load_errno,
        rings={name: Expect(overflow=one.overflow) for name, one in expect.rings.items()},
    )
