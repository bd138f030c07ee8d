"""Values for the constants of an object, given before it is judged: what a loader writes to
.rodata before it loads the programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pybpfvm.errors import InputError
from pybpfvm.objectfile import global_variables
from pybpfvm.program import BpfObject
from pybpfvm.session.values import Value, encode


def is_constant(obj: BpfObject, name: str) -> bool:
    """Whether a global variable of this name is one that nobody can change after loading."""
    frozen = {spec.name for spec in obj.maps if spec.frozen}
    return any(name == known and place[0] in frozen for known, place in global_variables(obj))


def with_constants(
    obj: BpfObject, constants: Mapping[str, Value | str], *, where: str = "--set "
) -> BpfObject:
    """The object with the variables of .rodata named in `constants` set to these values.

    Text is a number (as C writes it), `true`, `false`, or `hex:` and pairs of digits for all
    bytes of the variable. Raises InputError for a name that is no constant of the object, or a
    value that does not fit; its place is `where` and the name.
    """
    if not constants:
        return obj
    places = dict(global_variables(obj))
    frozen = {spec.name: bytearray(spec.data or b"") for spec in obj.maps if spec.frozen}
    for name, given in constants.items():
        place = f"{where}{name}"
        if name not in places or places[name][0] not in frozen:
            known = ", ".join(known for known in places if places[known][0] in frozen)
            raise InputError(
                f"{obj.path} has no constant of this name",
                where=place,
                remedy=f"its constants: {known}" if known else "it has none (needs -g and .rodata)",
            )
        section, offset, size, type_id = places[name]
        try:
            value = parse_value(given, place, size) if isinstance(given, str) else given
            data = encode(value, size, obj.btf, type_id, "big" if obj.big_endian else "little")
        except InputError as error:
            raise InputError(error.reason, where=place, remedy=error.remedy) from None
        frozen[section][offset : offset + size] = data
    maps = (
        replace(spec, data=bytes(frozen[spec.name])) if spec.name in frozen else spec
        for spec in obj.maps
    )
    return replace(obj, maps=tuple(maps))


def variable_bytes(obj: BpfObject, name: str) -> int | None:
    """The size of a global variable; None for a name that the object does not tell of."""
    return next((place[2] for known, place in global_variables(obj) if known == name), None)


def parse_value(text: str, where: str, size: int | None) -> Value:
    """The value that text stands for, as `with_constants` takes it, for a variable of `size` bytes
    (None: not known); InputError with `where`."""
    if text in ("true", "false"):
        return text == "true"
    try:
        value = bytes.fromhex(text[4:]) if text.startswith("hex:") else int(text, 0)
    except ValueError:
        raise InputError(
            f"{text!r} is not a value",
            where=where,
            remedy="give a number, true, false, or hex: and pairs of hex digits",
        ) from None
    if isinstance(value, bytes) and size is not None and len(value) != size:
        raise InputError(
            f"the variable has {size} bytes, not {len(value)}",
            where=where,
            remedy="after hex: give all of them, in memory's order",
        )
    return value
