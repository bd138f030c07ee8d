"""Values for the constants of an object, given before it is judged: what a loader writes to
.rodata before it loads the programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pybpfvm.errors import InputError
from pybpfvm.objectfile import global_variables
from pybpfvm.program import BpfObject
from pybpfvm.session.values import Value, encode


def with_constants(obj: BpfObject, constants: Mapping[str, str]) -> BpfObject:
    """The object with the variables of .rodata named in `constants` set to these values.

    A value is a number (as C writes it), `true`, `false`, or `hex:` and pairs of digits for all
    bytes of the variable. Raises InputError for a name that is no constant of the object, or a
    value that does not fit.
    """
    if not constants:
        return obj
    places = dict(global_variables(obj))
    frozen = {spec.name: bytearray(spec.data or b"") for spec in obj.maps if spec.frozen}
    for name, text in constants.items():
        where = f"--set {name}"
        if name not in places or places[name][0] not in frozen:
            known = ", ".join(known for known in places if places[known][0] in frozen)
            raise InputError(
                f"{obj.path} has no constant of this name",
                where=where,
                remedy=f"its constants: {known}" if known else "it has none (needs -g and .rodata)",
            )
        section, offset, size, type_id = places[name]
        try:
            data = encode(
                _value(text, where), size, obj.btf, type_id, "big" if obj.big_endian else "little"
            )
        except InputError as error:
            raise InputError(error.reason, where=where) from None
        frozen[section][offset : offset + size] = data
    maps = (
        replace(spec, data=bytes(frozen[spec.name])) if spec.name in frozen else spec
        for spec in obj.maps
    )
    return replace(obj, maps=tuple(maps))


def _value(text: str, where: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    try:
        return bytes.fromhex(text[4:]) if text.startswith("hex:") else int(text, 0)
    except ValueError:
        raise InputError(
            f"{text!r} is not a value",
            where=where,
            remedy="give a number, true, false, or hex: and pairs of hex digits",
        ) from None
