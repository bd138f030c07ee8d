"""Reading a scenario file. Everything wrong with it is one InputError that names the place.

The format is described in docs/scenarios.md.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pybpfvm.errors import InputError
from pybpfvm.filters.table import Scope
from pybpfvm.inputfile import read_input_file
from pybpfvm.loader.elf import ELF_MAGIC
from pybpfvm.scenario.content import CONTENT_KEYS, check_total, content, field
from pybpfvm.scenario.expect import expectations, expressions
from pybpfvm.scenario.faults import faults_of
from pybpfvm.scenario.filters import filter_spec, filter_specs
from pybpfvm.scenario.model import (
    MAIN_RING,
    Action,
    Attach,
    BufferRing,
    Check,
    CloseFd,
    Connect,
    Content,
    Detach,
    Enable,
    Enter,
    FdKind,
    FdSetup,
    Field,
    Later,
    NetworkChange,
    PeerEnd,
    PeerRecv,
    PeerSend,
    Register,
    RingPlan,
    RingSetup,
    Scenario,
    Signal,
    Sleep,
    Step,
    Submit,
    Unregister,
    Wait,
    Write,
)
from pybpfvm.scenario.names import check_names
from pybpfvm.scenario.schedule import parse_schedule
from pybpfvm.scenario.sqes import sqe_spec
from pybpfvm.scenario.table import Table, TomlValue, array, integer
from pybpfvm.uring_backend import abi as ring_abi
from pybpfvm.uring_backend.conditions import Conditions

MAX_FILE_BYTES = 4 << 20
MAX_STEPS = 10_000
_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_MAX_DURATION_NS = 1 << 62
_OPEN_FLAGS = {
    "rdonly": os.O_RDONLY,
    "wronly": os.O_WRONLY,
    "rdwr": os.O_RDWR,
    "creat": os.O_CREAT,
    "excl": os.O_EXCL,
    "trunc": os.O_TRUNC,
    "append": os.O_APPEND,
    "nonblock": os.O_NONBLOCK,
}
_SETUP_FLAGS = {
    name.removeprefix("SETUP_").lower(): value
    for name, value in vars(ring_abi).items()
    if name.startswith("SETUP_")
}


def parse(path: str | os.PathLike[str]) -> Scenario:
    """Read the scenario in the file `path`. Raises InputError."""
    data = read_input_file(path, MAX_FILE_BYTES)
    return parse_bytes(data, str(path), Path(path).parent)


def parse_bytes(data: bytes, name: str, base: Path) -> Scenario:
    """The scenario in `data`; `name` is for messages, other files are relative to `base`."""
    if data.startswith(ELF_MAGIC):
        raise InputError(
            "an object, not a scenario",
            where=name,
            remedy=f'write a scenario (.toml) with object = "{Path(name).name}", '
            "as docs/scenarios.md says",
        )
    try:
        tree = tomllib.loads(data.decode())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", where=name) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=name) from None
    except RecursionError:
        raise InputError("nested too deeply", where=name) from None
    except ValueError as error:  # integers of more digits than Python converts
        raise InputError(f"not TOML: {error}", where=name) from None
    scenario = _scenario(Table(tree, f"{name}: "), name, base)
    check_names(scenario)
    return scenario


def _scenario(table: Table, name: str, base: Path) -> Scenario:
    title = table.text("title")
    obj = base / table.name("object")
    abi = table.text("abi") or None
    unverified = table.flag("unverified")
    contract = _text_of(table, "contract", base)
    programs = _programs(table.items("programs"), table.at("programs"))
    ring_table = Table(table.take("ring") or {}, table.at("ring"))
    ring_name = ring_table.text("name") or MAIN_RING
    ring = _ring(ring_table)
    rings = {
        key: _plan(Table(item, f"{table.at('rings')}.{key}"))
        for key, item in table.tables("rings").items()
    }
    blocks = _contents(table.tables("user"), table.at("user"), base)
    file_table = Table(table.take("files") or {}, table.at("files"))
    seed = base / file_table.name("from") if "from" in file_table else None
    names = {key: file_table.take(key) for key in file_table.keys()}  # noqa: SIM118
    files = _contents(names, table.at("files"), base)
    dump = base / table.name("dump") if "dump" in table else None
    fds = tuple(
        _fd(fd_name, item, f"{table.at('fds')}.{fd_name}")
        for fd_name, item in table.tables("fds").items()
    )
    network = _network(table.take("network"), table.at("network")) if "network" in table else None
    attach = _attach(table)
    constants = _fields(table, "constants")
    variables = _fields(table, "globals")
    invariants = expressions(table, "invariant")
    replacing = Table(table.take("replace") or {}, table.at("replace"))
    replaced = {key: str(base / replacing.name(key)) for key in list(replacing.keys())}
    steps = []
    for index, item in enumerate(table.items("steps")):
        where = f"{table.at('steps')}[{index}]"
        if index >= MAX_STEPS:
            raise InputError(f"more than {MAX_STEPS} steps", where=where)
        step = Table(item, where)
        of = step.text("ring")
        steps.append(Step(_step(step, base, of), where, of))
    expect = expectations(Table(table.take("expect") or {}, table.at("expect")), base)
    filters = filter_specs(table.take("filters"), table.at("filters"), base)
    faults = faults_of(table.take("faults"), table.at("faults"))
    schedule = table.text("schedule") or None
    if schedule is not None:
        parse_schedule(schedule, table.at("schedule"))
    table.finish()
    return Scenario(
        path=name,
        object=obj,
        abi=abi,
        programs=programs,
        ring=ring,
        blocks=blocks,
        files=files,
        fds=fds,
        steps=tuple(steps),
        expect=expect,
        faults=faults,
        title=title,
        unverified=unverified,
        contract=contract,
        network=network,
        filters=filters,
        attach=attach,
        constants=constants,
        globals=variables,
        replace=replaced,
        schedule=schedule,
        invariants=invariants,
        seed=seed,
        dump=dump,
        ring_name=ring_name,
        rings=rings,
    )


def _text_of(table: Table, key: str, base: Path) -> str | None:
    """What is in the host file of that name, None where none is named."""
    if key not in table:
        return None
    where = table.at(key)
    data = read_input_file(base / table.name(key), MAX_FILE_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=where) from None


def _programs(items: list[TomlValue], where: str) -> tuple[str | None, ...]:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InputError('a program\'s name, or "" for no program', where=f"{where}[{index}]")
    return tuple(str(item) or None for item in items)


def _attach(table: Table) -> tuple[str, ...] | None:
    """`attach = "NAME"`, or a list of names."""
    value = table.take("attach")
    if value is None:
        return None
    where = table.at("attach")
    if isinstance(value, str):
        return (value,)
    items = enumerate(array(value, where))
    return tuple(_name(item, f"{where}[{index}]") for index, item in items)


def _fields(table: Table, key: str) -> Mapping[str, Field]:
    where = table.at(key)
    return {name: field(item, f"{where}.{name}") for name, item in table.tables(key).items()}


def _plan(table: Table) -> RingPlan:
    """A ring beside the first."""
    programs = _programs(table.items("programs"), table.at("programs"))
    attach = _attach(table) or ()
    return RingPlan(_ring(table), programs, attach)


def _ring(table: Table) -> RingSetup:
    where, limit = table.where, (1 << 32) - 1
    entries = table.integer("entries", 0, limit)
    cq_entries = tuple(
        integer(item, f"{where}.cq_entries[{index}]", 0, limit)
        for index, item in enumerate(table.items("cq_entries"))
    )
    files = tuple(_slot(item, f"{where}.files[{i}]") for i, item in enumerate(table.items("files")))
    buffers = tuple(
        _name(item, f"{where}.buffers[{i}]") for i, item in enumerate(table.items("buffers"))
    )
    contexts = tuple(
        _name(item, f"{where}.contexts[{i}]") for i, item in enumerate(table.items("contexts"))
    )
    setup = RingSetup(
        entries=8 if entries is None else entries,
        cq_entries=cq_entries,
        cq0_entries=table.integer("cq0_entries", 0, limit),
        flags=table.bits("flags", _SETUP_FLAGS) if "flags" in table else None,
        files=files,
        buffers=buffers,
        buffer_rings=_buffer_rings(table),
        mem=table.text("mem") or None,
        contexts=contexts,
    )
    table.finish()
    return setup


def _buffer_rings(table: Table) -> tuple[BufferRing, ...]:
    """`buffer_rings = [{ group = 1, block = "ring", buffers = ["a"], incremental = true }]`."""
    found = []
    for index, item in enumerate(table.items("buffer_rings")):
        one = Table(item, f"{table.at('buffer_rings')}[{index}]")
        group = one.integer("group", 0, (1 << 16) - 1)
        if group is None:
            raise InputError("a group's number is needed", where=one.at("group"))
        buffers = tuple(
            _name(name, f"{one.at('buffers')}[{at}]")
            for at, name in enumerate(one.items("buffers"))
        )
        found.append(BufferRing(group, one.name("block"), buffers, one.flag("incremental")))
        one.finish()
    return tuple(found)


def _network(value: TomlValue, where: str) -> NetworkChange:
    table = Table(value, where)
    loss = table.take("loss")
    if loss is not None and (isinstance(loss, bool) or not isinstance(loss, (int, float))):
        raise InputError("a probability is needed", where=table.at("loss"))
    latency, jitter = _duration(table, "latency"), _duration(table, "jitter")
    bandwidth = table.integer("bandwidth", 1, 1 << 62)
    partition, reset = table.flag("partition"), table.flag("reset")
    peer = table.text("peer") or None
    table.finish()
    try:
        conditions = Conditions(latency or 0, jitter or 0, bandwidth or 0, loss or 0.0, partition)
    except InputError as error:
        raise error.inside(where) from None
    return NetworkChange(conditions, peer, reset)


def _slot(item: TomlValue, where: str) -> str | None:
    if item == -1 and not isinstance(item, bool):
        return None
    return _name(item, where)


def _name(item: TomlValue, where: str) -> str:
    if not isinstance(item, str):
        raise InputError("a name is needed", where=where)
    return item


def _contents(tables: dict[str, TomlValue], where: str, base: Path) -> Mapping[str, Content]:
    found = {}
    for name, item in tables.items():
        table = Table(item, f"{where}.{name}")
        found[name] = content(table, base)
        table.finish(also=CONTENT_KEYS)
    check_total(found, where)
    return found


def _fd(name: str, item: TomlValue, where: str) -> FdSetup:
    table = Table(item, where)
    kinds = [kind for kind in FdKind if kind.value in table]
    if len(kinds) != 1:
        names = [kind.value for kind in FdKind]
        table.finish(also=names)
        raise InputError(f"exactly one of {', '.join(names)} is needed", where=where)
    kind = kinds[0]
    target, flags, mode, count = "", 0, None, None
    if kind in (FdKind.LISTEN, FdKind.SOCKET, FdKind.DATAGRAMS, FdKind.EPOLL):
        _only_true(table, kind.value)
    elif kind is FdKind.EVENTFD:
        count = table.integer(kind.value, 0, (1 << 32) - 1)
    else:
        target = table.text(kind.value)
    if kind is FdKind.OPEN:
        flags = table.bits("flags", _OPEN_FLAGS)
        mode = table.integer("mode", 0, 0o7777)
    table.finish()
    return FdSetup(name, kind, target, flags, 0o644 if mode is None else mode, count or 0)


# --- steps --------------------------------------------------------------------------------------

_STEP_KEYS = (
    "submit",
    "wait",
    "sleep",
    "write",
    "connect",
    "send",
    "recv",
    "shutdown",
    "close",
    "register",
    "unregister",
    "attach",
    "detach",
    "enter",
    "enable",
    "signal",
    "check",
    "network",
    "filter",
)
# What may happen while an enter sleeps.
_LATER = (Write, Connect, PeerSend, PeerEnd, CloseFd, Detach, Signal)


# What is done on a ring.
_ON_A_RING = (
    "submit",
    "wait",
    "sleep",
    "register",
    "unregister",
    "attach",
    "detach",
    "enter",
    "enable",
    "signal",
    "filter",
)


def _step(table: Table, base: Path, ring: str) -> Action:
    kinds = [key for key in _STEP_KEYS if key in table]
    if len(kinds) != 1:
        if not kinds:
            table.finish(also=_STEP_KEYS)
        raise InputError(
            f"a step does {' and '.join(kinds) or 'nothing'}",
            where=table.where,
            remedy=f"one of {', '.join(_STEP_KEYS)}",
        )
    if ring and kinds[0] not in _ON_A_RING:
        raise InputError(
            f"{kinds[0]} is not done on a ring",
            where=table.at("ring"),
            remedy=f"leave it out; it is for {', '.join(_ON_A_RING)}",
        )
    delay_ns = _duration(table, "after")
    action = _action(table, kinds[0], base)
    if delay_ns is not None:
        if not isinstance(action, _LATER):
            raise InputError(
                f"{kinds[0]} can not happen while an enter sleeps",
                where=table.at("after"),
                remedy="write, connect, send, shutdown, close, detach and signal can",
            )
        action = Later(action, delay_ns)
    table.finish()
    return action


def _action(table: Table, kind: str, base: Path) -> Action:
    match kind:
        case "submit":
            sqes = tuple(
                sqe_spec(Table(item, f"{table.at('submit')}[{index}]"))
                for index, item in enumerate(table.items("submit"))
            )
            return Submit(sqes, table.integer("consumed", 0, 1 << 16), table.errno("error"))
        case "wait":
            count = table.integer("wait", 1, 1 << 20)
            assert count is not None
            return Wait(count, table.integer("cq", 0, 1 << 16) or 0, _duration(table, "timeout"))
        case "sleep":
            return Sleep(_duration(table, "sleep") or 0)
        case "write":
            block = table.name("write")
            offset = table.integer("offset", 0, 1 << 32) or 0
            return Write(block, content(table, base), offset)
        case "connect":
            return Connect(table.name("connect"), table.name("to"))
        case "send":
            return PeerSend(table.name("send"), content(table, base))
        case "recv":
            end, timeout_ns = table.flag("end"), _duration(table, "timeout")
            return PeerRecv(table.name("recv"), content(table, base), end, timeout_ns)
        case "shutdown":
            return PeerEnd(table.name("shutdown"), close=False)
        case "close":
            if table.text("of") == "fd":
                return CloseFd(table.name("close"))
            return PeerEnd(table.name("close"), close=True)
        case "register":
            programs = _programs(table.items("register"), table.at("register"))
            return Register(programs, table.errno("error"))
        case "unregister":
            _only_true(table, "unregister")
            return Unregister(table.errno("error"))
        case "filter":
            place = Table(table.take("filter"), table.at("filter"))
            return filter_spec(place, base, Scope.RING)
        case "network":
            return _network(table.take("network"), table.at("network"))
        case "attach":
            return Attach(table.name("attach"), table.errno("error"))
        case "detach":
            return Detach(table.name("detach"))
        case "enter":
            return _enter(table)
        case "enable":
            _only_true(table, "enable")
            return Enable(table.errno("error"))
        case "signal":
            _only_true(table, "signal")
            return Signal()
        case _:
            return Check(expectations(Table(table.take("check"), table.at("check")), base))


def _only_true(table: Table, key: str) -> None:
    if not table.flag(key):
        raise InputError(f"{key} = true is the only value", where=table.where)


def _enter(table: Table) -> Enter:
    """`enter = true`, or a table of what io_uring_enter is given."""
    value = table.take("enter")
    arguments = Table({} if value is True else value, table.at("enter"))
    limit = (1 << 32) - 1
    to_submit, min_complete, flags = (
        arguments.integer(key, 0, limit) or 0 for key in ("to_submit", "min_complete", "flags")
    )
    arguments.finish()
    result = table.integer("result", -(1 << 31), (1 << 31) - 1)
    return Enter(to_submit, min_complete, flags, result, table.errno("error"))


def _duration(table: Table, key: str) -> int | None:
    """A duration in ns: "200 ms", "1.5s", or a number of nanoseconds."""
    value = table.take(key)
    where = table.at(key)
    if value is None:
        return None
    if not isinstance(value, str):
        return integer(value, where, 0, _MAX_DURATION_NS)
    digits = value.rstrip("nums ")
    unit = value[len(digits) :].strip()
    try:
        duration = float(digits) * _NS[unit]
    except (ValueError, KeyError):
        duration = -1.0
    if not duration >= 0:
        raise InputError(
            f"{value!r} is no duration", where=where, remedy='write "200 ms", "1.5 s", "10 us"'
        )
    if duration > _MAX_DURATION_NS:
        most = f"at most {_MAX_DURATION_NS // _NS['s']} s"
        raise InputError(f"{value!r} is too long", where=where, remedy=most)
    return int(duration)
