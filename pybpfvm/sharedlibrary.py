"""Shared libraries of the system, called through ctypes: opened once, their functions declared."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from pybpfvm.errors import InputError

Prototypes = Mapping[str, tuple[object, tuple[object, ...]]]
"""The result and the arguments of each function, as ctypes types."""

_opened: dict[tuple[str, str], ctypes.CDLL] = {}


def opened(
    name: str, functions: Prototypes, *, where: str, unreadable: str, too_old: str
) -> ctypes.CDLL:
    """The library `name` (a path, or a name that the loader knows), its `functions` declared.

    Raises InputError of `where`, with the remedy `unreadable` if it can not be loaded, and
    `too_old` if a function is missing.
    """
    library = _opened.get((where, name))
    if library is not None:
        return library
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise InputError(str(error), where=where, remedy=unreadable) from None
    for function, (result, arguments) in functions.items():
        try:
            declared = getattr(library, function)
        except AttributeError:
            raise InputError(f"{name} has no {function}", where=where, remedy=too_old) from None
        declared.restype, declared.argtypes = result, arguments
    _opened[where, name] = library
    return library
