"""What a scenario expected against what there is: each difference is a Finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pybpfvm.bits import U64
from pybpfvm.errors import errno_name
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.scenario.live import Live, LiveRing, placed
from pybpfvm.scenario.model import BytesSpec, CqeSpec, CqSpec, Expect, Field, MapSpecs
from pybpfvm.session import Cqe
from pybpfvm.session.values import Value


@dataclass(frozen=True, slots=True)
class Finding:
    """An expectation that does not hold: where, what was expected, what there is. `kind` is
    another where it is one that every scenario has: see `watching`."""

    where: str
    expected: str
    found: str
    kind: str = "expectation"

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def compare(
    expect: Expect,
    live: Live,
    seen: Mapping[str, Mapping[int, Sequence[Cqe]]],
    place: str,
) -> Iterator[Finding]:
    """All differences. `seen` holds, by ring, the CQEs of each CQ."""
    first = live.first
    yield from _compare_queues(expect, live, seen[first.name], place)
    for elements in expect.maps:
        yield from _compare_map(elements, live, f"{place}.maps.{elements.name}")
    for name, field in expect.globals.items():
        actual = live.object.globals[name]
        yield from _compare_field(field, actual, live, f"{place}.globals.{name}")
    for memory in expect.memory:
        block = live.blocks[memory.name]
        size = live.size(memory.content)
        data = block.read(min(size, max(block.size - memory.offset, 0)), memory.offset)
        yield from _compare_bytes(memory, data, live, f"{place}.memory.{memory.name}")
    for file in expect.files:
        data = live.ring.world.file_data(file.name)
        yield from _compare_bytes(file, data, live, f"{place}.files.{file.name}")
    yield from _compare_counters(expect, first, place)
    for index, text in enumerate(expect.that):
        yield from failed(text, live, f"{place}.that[{index}]")
    for name, beside in expect.rings.items():
        where = f"{place}.rings.{name}"
        yield from _compare_queues(beside, live, seen[name], where)
        yield from _compare_counters(beside, live.rings[name], where)


def _compare_queues(
    expect: Expect, live: Live, seen: Mapping[int, Sequence[Cqe]], place: str
) -> Iterator[Finding]:
    for spec in expect.cqs:
        yield from _compare_cq(spec, live, seen.get(spec.cq, ()), f"{place}.cqes.{spec.cq}")
    for cq, count in expect.counts.items():
        found = len(seen.get(cq, ()))
        if found != count:
            yield Finding(f"{place}.counts.{cq}", f"{count} CQEs", str(found))


def _compare_counters(expect: Expect, of: LiveRing, place: str) -> Iterator[Finding]:
    runs, lost = of.ring.counts.runs, of.ring.cq_overflow
    for name, count in expect.runs.items():
        if runs[name] != count:
            yield Finding(f"{place}.runs.{name}", f"{count} runs", str(runs[name]))
    if expect.overflow is not None and lost != expect.overflow:
        yield Finding(f"{place}.overflow", f"{expect.overflow} lost", str(lost))


def failed(text: str, live: Live, where: str) -> Iterator[Finding]:
    """A finding unless the expression holds now: with its parts, or why it has no value."""
    expression = live.expression(text)
    try:
        if not expression.holds(live.scope):
            parts = expression.parts(live.scope)
            whole = len(parts) == 1 and parts[0].text == text
            found = parts[0].value if whole else ", ".join(map(str, parts))
            yield Finding(where, text, found or "that it does not")
    except ExpressionError as error:
        yield Finding(where, text, f"no value ({error})")


# --- CQEs -----------------------------------------------------------------------------------------


def _compare_cq(spec: CqSpec, live: Live, cqes: Sequence[Cqe], where: str) -> Iterator[Finding]:
    if not spec.ordered:
        yield from _compare_set(spec, live, cqes, where)
        return
    for index, (wanted, cqe) in enumerate(zip(spec.cqes, cqes)):
        if not _matches(wanted, cqe, live):
            yield Finding(f"{where}[{index}]", _spec_text(wanted), cqe_text(cqe, live))
    if len(cqes) < len(spec.cqes):
        missing = _spec_text(spec.cqes[len(cqes)])
        yield Finding(where, f"{len(spec.cqes)} CQEs, then {missing}", f"only {len(cqes)}")
    elif len(cqes) > len(spec.cqes):
        extra = cqe_text(cqes[len(spec.cqes)], live)
        yield Finding(where, f"{len(spec.cqes)} CQEs", f"{len(cqes)}, the next one {extra}")


def _compare_set(spec: CqSpec, live: Live, cqes: Sequence[Cqe], where: str) -> Iterator[Finding]:
    """Match every expected CQE with one of its own, by augmenting paths (Kuhn 1955): a spec
    that leaves fields open must not take the only CQE that a stricter one could have."""
    owner: dict[int, int] = {}  # index of a CQE -> index of the spec it belongs to
    fits = [[i for i, cqe in enumerate(cqes) if _matches(s, cqe, live)] for s in spec.cqes]

    def assign(wanted: int, tried: set[int]) -> bool:
        for index in fits[wanted]:
            if index in tried:
                continue
            tried.add(index)
            if index not in owner or assign(owner[index], tried):
                owner[index] = wanted
                return True
        return False

    for wanted, cqe_spec in enumerate(spec.cqes):
        if not assign(wanted, set()):
            yield Finding(f"{where}.set[{wanted}]", _spec_text(cqe_spec), "no CQE that fits")
    strangers = [cqe for index, cqe in enumerate(cqes) if index not in owner]
    if strangers:
        yield Finding(
            where,
            f"{len(spec.cqes)} CQEs",
            f"{len(strangers)} that nobody expects, the first {cqe_text(strangers[0], live)}",
        )


def _matches(spec: CqeSpec, cqe: Cqe, live: Live) -> bool:
    if spec.user_data is not None and live.number(spec.user_data) & U64 != cqe.user_data:
        return False
    if spec.res is not None and spec.res != cqe.res:
        return False
    if spec.flags is not None and spec.flags != cqe.flags:
        return False
    return spec.extra is None or spec.extra == cqe.extra


def _spec_text(spec: CqeSpec) -> str:
    user_data = "any" if spec.user_data is None else str(spec.user_data)
    res = "any" if spec.res is None else _res_text(spec.res)
    flags = "" if spec.flags is None else f", flags {spec.flags:#x}"
    extra = "" if spec.extra is None else f", big_cqe {list(spec.extra)}"
    return f"(user_data {user_data}, res {res}{flags}{extra})"


def cqe_text(cqe: Cqe, live: Live) -> str:
    """`(user_data block job, res -EINVAL)`"""
    block = live.name_of(cqe.user_data)
    user_data = f"block {block}" if block else str(cqe.user_data)
    flags = f", flags {cqe.flags:#x}" if cqe.flags else ""
    extra = f", big_cqe {list(cqe.extra)}" if any(cqe.extra) else ""
    return f"(user_data {user_data}, res {_res_text(cqe.res)}{flags}{extra})"


def _res_text(res: int) -> str:
    return f"-{errno_name(res)}" if -4096 < res < 0 else str(res)


# --- maps, globals, bytes ---------------------------------------------------------------------


def _compare_map(spec: MapSpecs, live: Live, where: str) -> Iterator[Finding]:
    view = live.object.maps[spec.name]
    for key, wanted in spec.elements:
        place = f"{where}[{key!r}]"
        try:
            found = view[live.value(key)]
        except KeyError:
            yield Finding(place, _text(live.value(wanted)), "no such element")
            continue
        yield from _compare_field(wanted, found, live, place)


def _compare_field(wanted: Field, found: Value, live: Live, where: str) -> Iterator[Finding]:
    """Compare what is given: fields and elements that are left out may be anything."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name, item in wanted.items():
            if name not in found:
                yield Finding(f"{where}.{name}", "a field", f"only {', '.join(found)}")
            else:
                yield from _compare_field(item, found[name], live, f"{where}.{name}")
    elif isinstance(wanted, tuple) and isinstance(found, list):
        for index, item in enumerate(wanted):
            if index >= len(found):
                yield Finding(f"{where}[{index}]", "an element", f"only {len(found)}")
                return
            yield from _compare_field(item, found[index], live, f"{where}[{index}]")
    elif not _same(live.value(wanted), found):
        yield Finding(where, _text(live.value(wanted)), _text(found))


def _same(wanted: Value, found: Value) -> bool:
    if isinstance(wanted, bytes) and isinstance(found, bytes):
        return wanted == found[: len(wanted)] and not any(found[len(wanted) :])
    if isinstance(wanted, int) and isinstance(found, int):
        return wanted == found or (wanted < 0 and wanted & U64 == found)
    return wanted == found


def _text(value: Value) -> str:
    text = f"{value!r}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _compare_bytes(spec: BytesSpec, data: bytes, live: Live, where: str) -> Iterator[Finding]:
    with placed(live.scenario, where):
        wanted = live.render(spec.content)
    yield from differing(wanted, data, where, spec.offset)


def differing(wanted: bytes, data: bytes, where: str, offset: int = 0) -> Iterator[Finding]:
    """How bytes differ: in number, and where first, counted from `offset`."""
    if len(wanted) != len(data):
        yield Finding(where, f"{len(wanted)} bytes", str(len(data)))
    at = next((i for i, (a, b) in enumerate(zip(wanted, data)) if a != b), None)
    if at is not None:
        show = slice(at, at + 16)
        yield Finding(f"{where}, byte {offset + at}", wanted[show].hex(" "), data[show].hex(" "))
