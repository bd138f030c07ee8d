"""The scenario of an object with callbacks of a ring, where nobody wrote one: a ring, one enter, or
one request that the callbacks perform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pybpfvm.errors import InputError
from pybpfvm.scenario.content import MAX_CONTENT_BYTES
from pybpfvm.scenario.model import (
    Enter,
    Expect,
    Fill,
    Ref,
    RefKind,
    RingSetup,
    Scenario,
    SqeSpec,
    Step,
    Submit,
    Wait,
)
from pybpfvm.scenario.names import no_variables
from pybpfvm.session import LoadedObject
from pybpfvm.session.constants import is_constant, parse_value, variable_bytes
from pybpfvm.session.values import Value
from pybpfvm.uring_backend import abi

# Constants of an object that say what ring it was written for.
_SQ, _CQ = "sq_entries", "cq_entries"
_MEM = "mem"  # the block that is the MEM region


def alone(
    obj: LoadedObject,
    name: str | None,
    settings: Mapping[str, str],
    mem_bytes: int = 0,
    replace: Mapping[str, str] = MappingProxyType({}),
) -> Scenario:
    """The callbacks `name`, or those with the program `name`, on a ring that is entered once; those
    that perform requests get one.

    `settings` are values of global variables, as text; `replace` as a scenario's. The ring has as
    many entries as the object has in constants called sq_entries and cq_entries, 8 and twice that
    without, and a MEM region of `mem_bytes`, none if that is 0. Raises InputError.
    """
    if mem_bytes > MAX_CONTENT_BYTES:
        raise InputError(
            f"a MEM region of {mem_bytes:,} bytes", where="--mem", remedy="256 MiB at most"
        )
    values = {
        key: parse_value(text, f"--set {key}", variable_bytes(obj.object, key))
        for key, text in settings.items()
    }
    known = list(obj.globals)
    for key in values:
        if key not in known:
            raise InputError(
                f"{obj.object.path} has no global variable of this name",
                where=f"--set {key}",
                remedy=f"it has {', '.join(known)}" if known else no_variables(obj),
            )
    constants = {key: value for key, value in values.items() if is_constant(obj.object, key)}
    setup = RingSetup(
        entries=_size(obj, _SQ, constants, abi.MAX_SQ_ENTRIES) or 8,
        cq0_entries=_size(obj, _CQ, constants, abi.MAX_CQ_ENTRIES),
        mem=_MEM if mem_bytes else None,
    )
    path = obj.object.path
    attach = None if name is None else (_callbacks(obj, name),)
    steps: tuple[Step, ...] = (Step(Enter(flags=abi.ENTER_GETEVENTS), f"{path}: enter"),)
    loop = obj.profile.loop
    if loop is not None and loop.operation is not None:
        names = attach or obj.callbacks
        sqes = tuple(SqeSpec(None, {"off": Ref(RefKind.PROG, one)}) for one in names)
        steps = (
            Step(Submit(sqes, len(sqes)), f"{path}: submit"),
            Step(Wait(len(sqes)), f"{path}: wait"),
        )
    return Scenario(
        path=path,
        object=Path(path),
        abi=None,
        programs=(),
        ring=setup,
        blocks={_MEM: Fill(0, mem_bytes)} if mem_bytes else {},
        files={},
        fds=(),
        steps=steps,
        expect=Expect(),
        attach=attach,
        constants=_fields(constants),
        globals=_fields({key: values[key] for key in values.keys() - constants.keys()}),
        replace=replace,
    )


def _fields(values: Mapping[str, Value]) -> Mapping[str, int | bytes]:
    return {key: value for key, value in values.items() if isinstance(value, int | bytes)}


def _size(obj: LoadedObject, name: str, constants: Mapping[str, Value], most: int) -> int | None:
    """The constant of this name, None without one; InputError for one that no ring has: the kernel
    rounds up to a power of two, and the program would go on with its own number."""
    if name not in list(obj.globals) or not is_constant(obj.object, name):
        return None
    size = constants.get(name, obj.globals[name])
    if isinstance(size, bytes):
        size = int.from_bytes(size, "little")
    if not isinstance(size, int) or size <= 0:
        return None
    entries = 1 << (size - 1).bit_length()
    if entries != size and size <= most:
        raise InputError(
            f"the ring would have {entries} entries, {name} says {size}",
            where=f"--set {name}" if name in constants else f"{obj.object.path}: {name}",
            remedy=f"give a power of two: --set {name}={entries}",
        )
    return size


def _callbacks(obj: LoadedObject, name: str) -> str:
    """The struct of callbacks that is called so, or the only one with a program called so."""
    if name in obj.callbacks:
        return name
    having = [one.name for one in obj.struct_ops.values() if name in one.programs.values()]
    if len(having) == 1:
        return having[0]
    raise InputError(
        f"{len(having) or 'no'} structs of callbacks have a program {name!r}",
        where=f"{obj.object.path}: --prog",
        remedy=f"callbacks: {', '.join(obj.callbacks) or 'none'}",
    )
