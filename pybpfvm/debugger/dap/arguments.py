"""What requests carry, as types: the fields of the Debug Adapter Protocol that are used here.

`lineText` in a message is `line_text` here. Fields that nothing here asks for are ignored, as the
protocol wants it.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ArgumentsError(Exception):
    """A request does not carry what it has to; the text names the field."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Of requests that carry nothing that matters here."""


@dataclass(frozen=True, slots=True)
class Initialize:
    """What the client can do, and how it counts."""

    lines_start_at1: bool = True
    columns_start_at1: bool = True
    path_format: str = "path"
    supports_progress_reporting: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """What to debug: `recording`, or `program`, a scenario or an object that is run and recorded
    first with the options `args` of `pybpfvm run`. `stop_at`: "start", "end", or "auto": at the
    fault that ended the recording, at its start if none did."""

    recording: str | None = None
    program: str | None = None
    args: tuple[str, ...] = ()
    cwd: str | None = None
    engine: str = "auto"
    stop_on_entry: bool = True
    stop_at: str = "auto"


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a text that has only a number."""

    name: str | None = None
    path: str | None = None
    source_reference: int | None = None


@dataclass(frozen=True, slots=True)
class SourceBreakpoint:
    """A C line where to stop."""

    line: int
    condition: str | None = None
    hit_condition: str | None = None
    log_message: str | None = None


@dataclass(frozen=True, slots=True)
class SetBreakpoints:
    """All breakpoints of a file."""

    source: Source
    breakpoints: tuple[SourceBreakpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionBreakpoint:
    """A function at whose beginning to stop."""

    name: str
    condition: str | None = None
    hit_condition: str | None = None


@dataclass(frozen=True, slots=True)
class SetFunctionBreakpoints:
    """All of these."""

    breakpoints: tuple[FunctionBreakpoint, ...]


@dataclass(frozen=True, slots=True)
class InstructionBreakpoint:
    """An instruction before which to stop."""

    instruction_reference: str
    offset: int = 0
    condition: str | None = None
    hit_condition: str | None = None


@dataclass(frozen=True, slots=True)
class SetInstructionBreakpoints:
    """All of these."""

    breakpoints: tuple[InstructionBreakpoint, ...]


@dataclass(frozen=True, slots=True)
class DataBreakpointInfo:
    """A variable that is to be watched, or an expression if it is of no scope."""

    name: str
    variables_reference: int | None = None
    frame_id: int | None = None


@dataclass(frozen=True, slots=True)
class DataBreakpoint:
    """Data at whose writing to stop."""

    data_id: str
    access_type: str | None = None
    condition: str | None = None
    hit_condition: str | None = None


@dataclass(frozen=True, slots=True)
class SetDataBreakpoints:
    """All of these."""

    breakpoints: tuple[DataBreakpoint, ...]


@dataclass(frozen=True, slots=True)
class FilterOption:
    """An exception filter with a condition."""

    filter_id: str
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class SetExceptionBreakpoints:
    """All filters that are on."""

    filters: tuple[str, ...] = ()
    filter_options: tuple[FilterOption, ...] = ()


@dataclass(frozen=True, slots=True)
class BreakpointLocations:
    """Lines to which code belongs."""

    source: Source
    line: int
    end_line: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step; `granularity` is "statement", "line" or "instruction"."""

    thread_id: int
    granularity: str = "statement"


@dataclass(frozen=True, slots=True)
class OfThread:
    """A request about a thread."""

    thread_id: int


@dataclass(frozen=True, slots=True)
class StackTrace:
    """Which frames; `levels` 0: all."""

    thread_id: int
    start_frame: int = 0
    levels: int = 0


@dataclass(frozen=True, slots=True)
class OfFrame:
    """A request about a frame."""

    frame_id: int


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """How to show numbers."""

    hex: bool = False


@dataclass(frozen=True, slots=True)
class Variables:
    """Which variables; `count` 0: all."""

    variables_reference: int
    filter: str | None = None
    start: int = 0
    count: int = 0
    format: ValueFormat | None = None


@dataclass(frozen=True, slots=True)
class Evaluate:
    """An expression, or with `context` "repl" a command."""

    expression: str
    frame_id: int | None = None
    context: str | None = None
    format: ValueFormat | None = None


@dataclass(frozen=True, slots=True)
class Completions:
    """What is typed; `column` counts as the client does."""

    text: str
    column: int


@dataclass(frozen=True, slots=True)
class OfSource:
    """The text of a source."""

    source_reference: int = 0
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Disassemble:
    """Instructions around a place; `offset` is in bytes."""

    memory_reference: str
    instruction_count: int
    offset: int = 0
    instruction_offset: int = 0


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """Bytes."""

    memory_reference: str
    count: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class GotoTargets:
    """A line to go to."""

    source: Source
    line: int


@dataclass(frozen=True, slots=True)
class Goto:
    """A target to go to."""

    thread_id: int
    target_id: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request, or what a progress belongs to, that nobody waits for any more."""

    request_id: int | None = None
    progress_id: str | None = None


def arguments(kind: type[T], raw: object) -> T:
    """`raw`, the arguments of a request, as `kind`. Raises ArgumentsError."""
    found: T = _object(kind, {} if raw is None else raw, "arguments")
    return found


def _object(kind: type[Any], raw: object, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise ArgumentsError(f"{where}: an object is wanted, not {_named(raw)}")
    values = {}
    for name, wire, hint, required in _fields_of(kind):
        value = raw.get(wire)
        if value is None:
            if required:
                raise ArgumentsError(f"{where}.{wire} is missing")
            continue
        values[name] = _value(hint, value, f"{where}.{wire}")
    return kind(**values)


_FIELDS: dict[type[Any], tuple[tuple[str, str, Any, bool], ...]] = {}


def _fields_of(kind: type[Any]) -> tuple[tuple[str, str, Any, bool], ...]:
    """Of each field its name, that in messages, its type, and whether it has to be there."""
    known = _FIELDS.get(kind)
    if known is not None:
        return known
    hints = get_type_hints(kind)
    found = tuple(
        (one.name, _wire_name(one.name), hints[one.name], one.default is MISSING)
        for one in fields(kind)
    )
    _FIELDS[kind] = found
    return found


def _wire_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[0].upper() + word[1:] for word in rest)


_WORDS = {int: "a whole number", str: "a string", bool: "true or false"}


def _value(hint: Any, raw: object, where: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _object(hint, raw, where)
    if get_origin(hint) is tuple:
        if not isinstance(raw, list):
            raise ArgumentsError(f"{where}: a list is wanted, not {_named(raw)}")
        inner = get_args(hint)[0]
        return tuple(_value(inner, one, f"{where}[{n}]") for n, one in enumerate(raw))
    if hint is int and isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    if not isinstance(raw, hint) or (hint is int and isinstance(raw, bool)):
        raise ArgumentsError(f"{where}: {_WORDS[hint]} is wanted, not {_named(raw)}")
    return raw


def _named(raw: object) -> str:
    match raw:
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case str():
            return repr(raw[:40])
        case _:
            return str(raw)
