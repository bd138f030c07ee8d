"""The `faults` of a scenario: text as for `--faults`, or a table of rates.

faults = "READ#2=EIO"                     or "swarm", "rate:0.1"
faults = { plan = ["READ#2=EIO"], shared = ["word"], swarm = true }
faults = { rate = 0.05, op.read = { short = 0.5, errno = 0, EIO = 0.1 } }
"""

from __future__ import annotations

from dataclasses import replace
from errno import errorcode

from pybpfvm.errors import InputError
from pybpfvm.scenario.table import Table, TomlValue, nearest
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.faults import (
    LEGAL,
    SWARM_RATE,
    AtRate,
    Fails,
    Faults,
    even_odds,
    kinds_of,
    parse_fault,
    parse_faults,
    parse_rate,
)


def faults_of(value: TomlValue, where: str) -> Faults | None:
    """What the key `faults` says; None when it is not there. Raises InputError."""
    if value is None:
        return None
    if isinstance(value, str):
        return parse_faults(value, where)
    table = Table(value, where)
    plan = []
    for index, item in enumerate(table.items("plan")):
        if not isinstance(item, str):
            raise InputError("a fault as text", where=f"{where}.plan[{index}]")
        plan.append(parse_fault(item, f"{where}.plan[{index}]"))
    swarm = table.flag("swarm")
    shared = []
    for index, item in enumerate(table.items("shared")):
        if not isinstance(item, str):
            raise InputError("a block's name", where=f"{where}.shared[{index}]")
        shared.append(item)
    reaped = []
    for index, item in enumerate(table.items("reaped")):
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise InputError("a CQ's number", where=f"{where}.reaped[{index}]")
        reaped.append(item)
    given = table.take("rate")
    rate = parse_rate(given, table.at("rate")) if given is not None else None
    ops, chosen = _rates(table.tables("op"), table.at("op"))
    table.finish()
    if rate is None and not swarm and not ops and not chosen and not shared and not reaped:
        return Faults(tuple(plan))
    if rate is None:
        rate = SWARM_RATE if swarm else 0.0
    odds = even_odds(rate, shared=tuple(shared), reaped=tuple(reaped), swarm=swarm)
    odds = replace(odds, rates={**odds.rates, **ops}, chosen=chosen)
    if (shared or reaped) and not rate:
        odds = replace(odds, user_rate=SWARM_RATE)
    return Faults(tuple(plan), odds)


def _rates(
    tables: dict[str, TomlValue], where: str
) -> tuple[dict[tuple[Op, str], float], tuple[AtRate, ...]]:
    """Of kinds of faults, and of single errors."""
    rates = {}
    chosen = []
    for name, item in tables.items():
        place = f"{where}.{name}"
        if name.upper() not in Op.__members__ or Op[name.upper()] not in LEGAL:
            known = [op.name.lower() for op in LEGAL]
            raise InputError(
                "no opcode that meets faults", where=place, remedy=nearest(name, known)
            )
        op = Op[name.upper()]
        table = Table(item, place)
        for kind in kinds_of(op):
            rate = table.take(kind)
            if rate is not None:
                rates[op, kind] = parse_rate(rate, f"{place}.{kind}")
        for number in LEGAL[op]:
            name = errorcode[number]
            rate = table.take(name)
            if rate is not None:
                chosen.append(AtRate(op, Fails(number), parse_rate(rate, f"{place}.{name}")))
        table.finish()
    return rates, tuple(chosen)
