"""What a run leaves behind: maps as tables, and as rows of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pybpfvm.maps.base import MapError
from pybpfvm.program import MapType
from pybpfvm.report.account import AddressNamer, plain_number
from pybpfvm.report.names import AddressNames
from pybpfvm.report.terminal import heading, table
from pybpfvm.session.objects import LoadedObject, MapView
from pybpfvm.session.values import Value

_MOST_ELEMENTS = 32
_MOST_LOOKED_AT = 1 << 16  # keys of one map: an array of millions must not keep its user waiting

_ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)
# Maps whose keys can be walked, so that none means none.
_HASHES = (
    MapType.HASH,
    MapType.PERCPU_HASH,
    MapType.LRU_HASH,
    MapType.LRU_PERCPU_HASH,
    MapType.LPM_TRIE,
)


def _is_zero(value: Value) -> bool:
    if isinstance(value, bytes):
        return value.count(0) == len(value)
    if isinstance(value, dict):
        return all(map(_is_zero, value.values()))
    if isinstance(value, list):
        return all(map(_is_zero, value))
    return value == 0


def elements(view: MapView) -> Iterator[tuple[Value, Value]]:
    """The elements worth showing: all of a hash, the non-zero ones of an array.

    Of a map with more than 65,536 keys, only those among the first so many.
    """
    array = view.spec.type in _ARRAYS
    for key, value in view.items(_MOST_LOOKED_AT):
        if not array or not _is_zero(value):
            yield key, value


def plain(value: Value) -> object:
    """`value` with bytes as hex text, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def value_text(value: Value, name_addr: AddressNamer = plain_number) -> str:
    """A value on one line; `name_addr` turns words that may be addresses into text."""
    if isinstance(value, bytes):
        shown = value.rstrip(b"\0")
        if shown and all(32 <= byte < 127 for byte in shown):
            return repr(shown.decode())
        return value[:24].hex(" ") + (f" … ({len(value)} bytes)" if len(value) > 24 else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {value_text(v, name_addr)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        most = 16
        text = ", ".join(value_text(item, name_addr) for item in value[:most])
        return f"[{text}{', …' if len(value) > most else ''}]"
    return name_addr(value) if isinstance(value, int) and value >= 1 << 24 else str(value)


def map_rows(obj: LoadedObject) -> dict[str, list[dict[str, object]]]:
    """Every map's elements worth showing, for JSON."""
    rows: dict[str, list[dict[str, object]]] = {}
    for name, view in obj.maps.items():
        rows[name] = [{"key": plain(k), "value": plain(v)} for k, v in elements(view)]
    return rows


def global_values(obj: LoadedObject) -> dict[str, object]:
    """Every global variable by name, for JSON."""
    return {name: plain(obj.globals[name]) for name in obj.globals}


def print_maps(obj: LoadedObject) -> None:
    """Every map that holds something, a table each; global variables by name. Those that hold
    nothing are named on a line of their own."""
    names = AddressNames(obj.image.memory, obj.object)
    globals_ = [(name, obj.globals[name]) for name in obj.globals]
    changed = [(name, value) for name, value in globals_ if not _is_zero(value)]
    if changed:
        print()
        heading("Global variables")
        table(("name", "value"), ((name, value_text(value, names)) for name, value in changed))
    zero = [name for name, value in globals_ if _is_zero(value)]
    empty: list[str] = []
    for name, view in obj.maps.items():
        if view.spec.data is not None:
            continue
        try:
            found = list(elements(view))
        except MapError:
            continue
        if not found and not _cut(view):
            if view.spec.type in _ARRAYS:
                zero.append(name)
            elif view.spec.type in _HASHES:
                empty.append(name)
            continue
        print()
        heading(f"Map {name}")
        shown = found[:_MOST_ELEMENTS]
        if shown:
            rows = ((value_text(k, names), value_text(v, names)) for k, v in shown)
            table(("key", "value"), rows)
        if len(found) > len(shown):
            print(f"… and {len(found) - len(shown)} more elements")
        if _cut(view):
            print(f"only the first {_MOST_LOOKED_AT:,} keys were looked at")
    if zero or empty:
        print()
    if zero:
        print(f"all zero: {', '.join(zero)}")
    if empty:
        print(f"empty: {', '.join(empty)}")


def _cut(view: MapView) -> bool:
    """Whether the map has more keys than are looked at."""
    if view.spec.max_entries <= _MOST_LOOKED_AT:
        return False
    return any(True for _ in islice(view.raw_keys(), _MOST_LOOKED_AT, None))
