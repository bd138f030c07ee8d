"""Reading what a scenario expects."""

from __future__ import annotations

from pathlib import Path

from pybpfvm.errors import InputError, TrapKind
from pybpfvm.scenario.content import CONTENT_KEYS, content, field, number
from pybpfvm.scenario.model import (
    BytesSpec,
    CqeSpec,
    CqSpec,
    Expect,
    Field,
    MapSpecs,
)
from pybpfvm.scenario.table import Table, TomlValue, array, integer, nearest, result

MAX_SET = 256  # CQEs that are compared as a set
MAX_EXPRESSIONS = 1_000


def expectations(table: Table, base: Path) -> Expect:
    """The expectations in a table: all of its keys."""
    rings = {
        name: _of_ring(Table(item, f"{table.at('rings')}.{name}"))
        for name, item in table.tables("rings").items()
    }
    trap = table.text("trap") or None
    if trap is not None and trap not in TrapKind.__members__:
        raise InputError(
            f"no trap is called {trap!r}",
            where=table.at("trap"),
            remedy=nearest(trap, TrapKind.__members__),
        )
    cqs, counts, runs, overflow = _queues_and_runs(table)
    where = table.at("globals")
    expect = Expect(
        cqs=cqs,
        counts=counts,
        maps=tuple(
            _map_specs(name, item, f"{table.at('maps')}.{name}")
            for name, item in table.tables("maps").items()
        ),
        globals={
            name: field(item, f"{where}.{name}") for name, item in table.tables("globals").items()
        },
        memory=_bytes_specs(table.tables("memory"), table.at("memory"), base, offsets=True),
        files=_bytes_specs(table.tables("files"), table.at("files"), base, offsets=False),
        runs=runs,
        overflow=overflow,
        that=expressions(table, "that"),
        hang=table.flag("hang"),
        trap=trap,
        load_errno=table.errno("load_error"),
        rings=rings,
    )
    table.finish()
    return expect


def expressions(table: Table, key: str) -> tuple[str, ...]:
    """Expressions in an array, whose syntax is right; what their names stand for only a run
    tells."""
    items = table.items(key)
    if not items:
        return ()
    from pybpfvm.expr.mistake import Mistake
    from pybpfvm.expr.parse import parse

    where = table.at(key)
    if len(items) > MAX_EXPRESSIONS:
        raise InputError(f"{len(items)} expressions, {MAX_EXPRESSIONS} at most", where=where)
    texts = []
    for index, item in enumerate(items):
        place = f"{where}[{index}]"
        if not isinstance(item, str):
            raise InputError(
                "an expression is a string", where=place, remedy=f'{key} = ["cq[0].ready == 1"]'
            )
        try:
            parse(item)
        except Mistake as mistake:
            raise mistake.of(item).inside(place) from None
        texts.append(item)
    return tuple(texts)


def _of_ring(table: Table) -> Expect:
    """What is expected of one of several rings."""
    cqs, counts, runs, overflow = _queues_and_runs(table)
    table.finish()
    return Expect(cqs=cqs, counts=counts, runs=runs, overflow=overflow)


def _queues_and_runs(
    table: Table,
) -> tuple[tuple[CqSpec, ...], dict[int, int], dict[str, int], int | None]:
    cqs = tuple(
        _cq_spec(_cq(cq, table.at("cqes")), item, f"{table.at('cqes')}.{cq}")
        for cq, item in table.tables("cqes").items()
    )
    counts = {
        _cq(cq, table.at("counts")): integer(item, f"{table.at('counts')}.{cq}", 0, 1 << 32)
        for cq, item in table.tables("counts").items()
    }
    runs = {
        name: integer(item, f"{table.at('runs')}.{name}", 0, 1 << 32)
        for name, item in table.tables("runs").items()
    }
    return cqs, counts, runs, table.integer("overflow", 0, 1 << 32)


def _cq(key: str, where: str) -> int:
    if not key.isascii() or not key.isdigit() or int(key[:6]) > 1024 or len(key) > 4:
        raise InputError(f"{key!r} is no CQ number", where=where, remedy="0 is the main CQ")
    return int(key)


def _cq_spec(cq: int, value: TomlValue, where: str) -> CqSpec:
    if isinstance(value, dict):
        table = Table(value, where)
        specs = _cqe_specs(table.items("set"), f"{where}.set")
        table.finish()
        if len(specs) > MAX_SET:
            raise InputError(f"a set of {len(specs)} CQEs, {MAX_SET} at most", where=where)
        return CqSpec(cq, specs, ordered=False)
    return CqSpec(cq, _cqe_specs(array(value, where), where))


def _cqe_specs(items: list[TomlValue], where: str) -> tuple[CqeSpec, ...]:
    specs: list[CqeSpec] = []
    for index, item in enumerate(items):
        table = Table(item, f"{where}[{index}]")
        user_data = table.take("user_data")
        res = table.take("res")
        spec = CqeSpec(
            None if user_data in (None, "any") else number(user_data, table.at("user_data")),
            None if res in (None, "any") else result(res, table.at("res")),
            table.integer("flags", 0, (1 << 32) - 1),
            _big_cqe(table) if "big_cqe" in table else None,
        )
        times = table.integer("times", 1, 100_000) or 1
        table.finish()
        specs.extend([spec] * times)
    return tuple(specs)


def _big_cqe(table: Table) -> tuple[int, int]:
    """The two words of the second half of a CQE."""
    where = table.at("big_cqe")
    words = [integer(item, where, 0, (1 << 64) - 1) for item in table.items("big_cqe")]
    if len(words) != 2:
        raise InputError(f"big_cqe has 2 numbers, not {len(words)}", where=where)
    return words[0], words[1]


def _map_specs(name: str, value: TomlValue, where: str) -> MapSpecs:
    if isinstance(value, list):
        pairs = enumerate(array(value, where))
        return MapSpecs(name, tuple((i, field(item, f"{where}[{i}]")) for i, item in pairs))
    if not isinstance(value, dict):
        raise InputError("an array of elements or a table of them is needed", where=where)
    return MapSpecs(
        name,
        tuple((_map_key(key, where), field(item, f"{where}.{key}")) for key, item in value.items()),
    )


def _map_key(key: str, where: str) -> Field:
    """A TOML key as a map key: an integer, or the bytes of anything else."""
    try:
        found = int(key, 0)
    except ValueError:
        return key.encode()
    return integer(found, f"{where}.{key}", -(1 << 63), (1 << 64) - 1)


def _bytes_specs(
    tables: dict[str, TomlValue], where: str, base: Path, *, offsets: bool
) -> tuple[BytesSpec, ...]:
    specs = []
    for name, item in tables.items():
        table = Table(item, f"{where}.{name}")
        offset = (table.integer("offset", 0, 1 << 32) or 0) if offsets else 0
        specs.append(BytesSpec(name, content(table, base), offset))
        table.finish(also=CONTENT_KEYS)
    return tuple(specs)
