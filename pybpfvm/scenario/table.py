"""A TOML table, read key by key: wrong types and unknown keys are refused with their place."""

from __future__ import annotations

import errno as _errno
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import cast

from pybpfvm.errors import InputError

TomlValue = object
MAX_ITEMS = 100_000
_MOST_SHOWN = 40  # names in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy: the known name most like `name`, or all of them."""
    names = [str(item) for item in known]
    close = get_close_matches(name, names, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(sorted(names)[:_MOST_SHOWN])
    return f"known here: {shown}" if shown else "there are none here"


class Table:
    """A table at `where`; `take_` methods remove a key, `finish` refuses what is left."""

    def __init__(self, data: TomlValue, where: str) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise InputError(f"a table is needed, not {_kind(data)}", where=where)
        self._left: dict[str, TomlValue] = dict(data)
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def keys(self) -> list[str]:
        """The keys not taken yet, in the file's order."""
        return list(self._left)

    def at(self, key: str) -> str:
        """The place of `key`, for messages."""
        return f"{self.where}.{key}" if not self.where.endswith(": ") else f"{self.where}{key}"

    def take(self, key: str) -> TomlValue:
        """The value, None when the key is not there."""
        self._known.add(key)
        return self._left.pop(key, None)

    def finish(self, also: Iterable[str] = ()) -> None:
        """Refuse the first key that nobody took."""
        for key in self._left:
            raise InputError(
                f"unknown key {key!r}",
                where=self.where.rstrip(": "),
                remedy=nearest(key, {*self._known, *also}),
            )

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"a string is needed, not {_kind(value)}", where=self.at(key))
        return value

    def name(self, key: str) -> str:
        """A string that must be there."""
        if key not in self._left:
            close = get_close_matches(key, self._left, 1)
            raise InputError(
                f"{key!r} is missing",
                where=self.where.rstrip(": "),
                remedy=f"is {close[0]!r} meant for it?" if close else "",
            )
        return self.text(key)

    def flag(self, key: str) -> bool:
        """A boolean, false when it is not there."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"true or false is needed, not {_kind(value)}", where=self.at(key))
        return bool(value)

    def integer(self, key: str, low: int, high: int) -> int | None:
        """An integer in [low, high], None when it is not there."""
        value = self.take(key)
        return None if value is None else integer(value, self.at(key), low, high)

    def items(self, key: str) -> list[TomlValue]:
        """An array, empty when it is not there."""
        value = self.take(key)
        return [] if value is None else array(value, self.at(key))

    def tables(self, key: str) -> dict[str, TomlValue]:
        """A table of anything, empty when it is not there."""
        value = self.take(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InputError(f"a table is needed, not {_kind(value)}", where=self.at(key))
        return cast("dict[str, TomlValue]", value)

    def bits(self, key: str, known: Mapping[str, int]) -> int:
        """Flag names (or a number) as one number."""
        value = self.take(key)
        if value is None:
            return 0
        if isinstance(value, int):
            return integer(value, self.at(key), 0, (1 << 32) - 1)
        return sum({choice(item, self.at(key), known) for item in array(value, self.at(key))})

    def errno(self, key: str) -> int:
        """An errno by name ("EBUSY") or number, positive; 0 when it is not there."""
        value = self.take(key)
        return 0 if value is None else abs(result(value, self.at(key)))


_KINDS = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (list, "an array"),
    (dict, "a table"),
)


def _kind(value: TomlValue) -> str:
    return next((text for kind, text in _KINDS if isinstance(value, kind)), "a date or time")


def integer(value: TomlValue, where: str, low: int, high: int) -> int:
    """`value` as an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"an integer is needed, not {_kind(value)}", where=where)
    if not low <= value <= high:
        raise InputError(f"{value} is not between {low} and {high}", where=where)
    return value


def array(value: TomlValue, where: str) -> list[TomlValue]:
    """`value` as an array of a bounded length."""
    if not isinstance(value, list):
        raise InputError(f"an array is needed, not {_kind(value)}", where=where)
    if len(value) > MAX_ITEMS:
        raise InputError(f"{len(value)} items, {MAX_ITEMS} at most", where=where)
    return value


def choice(value: TomlValue, where: str, known: Mapping[str, int]) -> int:
    """The number that the name `value` stands for."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"unknown name {value!r}", where=where, remedy=nearest(str(value), known))
    return known[value]


_ERRNO = {name: number for name, number in vars(_errno).items() if name.startswith("E")}


def result(value: TomlValue, where: str) -> int:
    """A result: an integer, or "-EINVAL"."""
    if isinstance(value, str):
        return -choice(value.removeprefix("-"), where, _ERRNO)
    return integer(value, where, -(1 << 31), (1 << 31) - 1)
