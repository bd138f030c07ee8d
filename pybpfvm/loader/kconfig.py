"""The kernel's configuration as objects see it: `extern ... __kconfig`.

A kernel's configuration is lines `CONFIG_NAME=VALUE`, VALUE being y, m, a number or text in quotes.
What an object asks for becomes a read-only array `.kconfig`, whose loads verifiers fold. Besides,
LINUX_KERNEL_VERSION is the kernel's version (major << 16 | minor << 8 | patch), and
LINUX_HAS_BPF_COOKIE and LINUX_HAS_SYSCALL_WRAPPER say what it has.
Kernel Documentation/bpf/libbpf/libbpf_overview.rst; graph of libbpf's answers.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pybpfvm.btf.types import Array, Btf, BtfKind, BtfType, Datasec, Enum, Int, Var
from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file, too_long
from pybpfvm.loader.elf import SHN_UNDEF, STB_WEAK, ElfObject
from pybpfvm.loader.maps import PlacedMap
from pybpfvm.program import BPF_F_RDONLY_PROG, MapSpec, MapType

SECTION = ".kconfig"
# The place of the map among sections, of which it has none.
PLACE = -1
MAX_BYTES = 16 << 20
MAX_VALUES = 4096
_VERSION = "LINUX_KERNEL_VERSION"
_COOKIE_SINCE = 5 << 16 | 15 << 8
_WRAPPER_SINCE = {"x86": 4 << 16 | 17 << 8, "arm64": 4 << 16 | 19 << 8, "s390": 4 << 16 | 17 << 8}
_TITLE = re.compile(r"# Linux/(\w+) (\d+)\.(\d+)\.(\d+)")
_TRISTATE = {"n": 0, "y": 1, "m": 2}


@dataclass(frozen=True, slots=True)
class Kconfig:
    """A configuration: `values` as the file has them, by name; `where` it is from. `version` and
    `arch` are those of its kernel, where the file's title tells."""

    values: Mapping[str, str]
    where: str
    version: int | None = None
    arch: str = ""

    def value(self, name: str) -> str | None:
        """What stands behind `name=`, None if it is not set or not known."""
        if name in self.values:
            return self.values[name]
        if self.version is None:
            return None
        if name == _VERSION:
            return str(self.version)
        if name == "LINUX_HAS_BPF_COOKIE":
            return str(int(self.version >= _COOKIE_SINCE))
        if name == "LINUX_HAS_SYSCALL_WRAPPER" and self.arch in _WRAPPER_SINCE:
            return str(int(self.version >= _WRAPPER_SINCE[self.arch]))
        return None


def read_kconfig(path: str) -> Kconfig:
    """The configuration in a file, plain or compressed with gzip. Raises InputError."""
    data = read_input_file(path, MAX_BYTES)
    if data[:2] == b"\x1f\x8b":
        try:
            unpacker = zlib.decompressobj(wbits=31)
            data = unpacker.decompress(data, MAX_BYTES)
        except zlib.error as error:
            raise InputError(f"broken gzip: {error}", where=path) from None
        if unpacker.unconsumed_tail:
            raise too_long(MAX_BYTES, path)
        if not unpacker.eof:
            raise InputError("broken gzip: it ends too early", where=path)
    return parse_kconfig(data.decode("utf-8", "replace"), path)


def parse_kconfig(text: str, where: str) -> Kconfig:
    """The configuration in `text`; a line LINUX_KERNEL_VERSION=NUMBER tells of another kernel."""
    values: dict[str, str] = {}
    version, arch = None, ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            title = _TITLE.match(line)
            if title and version is None:
                arch = title[1]
                version = _version(int(title[2]), int(title[3]), int(title[4]))
            continue
        name, equals, value = line.partition("=")
        if not equals or not value or not name.startswith(("CONFIG_", "LINUX_")):
            raise InputError(
                f"line {number} is not CONFIG_NAME=VALUE", where=where, remedy="as in .config"
            )
        if name == _VERSION:
            version = _number(value)
            if version is None:
                raise InputError(f"line {number}: {value!r} is no number", where=where)
            continue
        values[name] = value
    return Kconfig(values, where, version, arch)


@lru_cache(maxsize=1)
def running_kconfig() -> Kconfig | None:
    """That of the running kernel, None where it shows none."""
    for path in (f"/boot/config-{os.uname().release}", "/proc/config.gz"):
        if os.path.exists(path):
            try:
                return read_kconfig(path)
            except InputError:
                continue
    return None


class KconfigVariables:
    """What an object asks of a configuration (None: of one that is not known).

    `placed` is the array with the values, None if it asks for nothing; `lacking` says by name why a
    variable has none, after "which". A weak one that is not set is zero. Raises InputError for
    values that do not fit the type that the object gives them.
    """

    def __init__(self, elf: ElfObject, btf: Btf | None, kconfig: Kconfig | None) -> None:
        self.lacking: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self.placed: PlacedMap | None = None
        wanted = _wanted(elf, btf)
        if not wanted:
            return
        assert btf is not None
        data = bytearray()
        weak = {symbol.name for symbol in elf.symbols if symbol.binding == STB_WEAK}
        order = "big" if elf.big_endian else "little"
        for variable, size, align in sorted(wanted, key=lambda v: (-v[2], v[1], v[0].name)):
            data += bytes(-len(data) % align)
            self._offsets[variable.name] = len(data)
            value = bytes(size)
            text = None if kconfig is None else kconfig.value(variable.name)
            if kconfig is None:
                self.lacking[variable.name] = "no known configuration sets: give one (--kconfig)"
            elif text is not None:
                where = f"{elf.path}: extern {variable.name}"
                value = _encoded(text, btf, variable.type_id, size, order, where, kconfig.where)
            elif variable.name not in weak:
                self.lacking[variable.name] = f"{kconfig.where} does not set, and which is not weak"
            data += value
        spec = MapSpec(
            SECTION,
            MapType.ARRAY,
            4,
            len(data),
            1,
            flags=BPF_F_RDONLY_PROG,
            data=bytes(data),
            frozen=True,
        )
        self.placed = PlacedMap(spec, PLACE, 0, len(data))

    def offset(self, name: str) -> int | None:
        """Where a variable stands in the array; None for one that is not of the configuration."""
        return self._offsets.get(name)


def _wanted(elf: ElfObject, btf: Btf | None) -> list[tuple[Var, int, int]]:
    """(variable, size, alignment) of each one; InputError for types that none can have."""
    listed = btf.find(SECTION, BtfKind.DATASEC) if btf is not None else None
    datasec = btf.type(listed) if btf is not None and listed is not None else None
    if btf is None or not isinstance(datasec, Datasec):
        return []
    undefined = {symbol.name for symbol in elf.symbols if symbol.section == SHN_UNDEF}
    found = []
    for entry in datasec.variables:
        variable = btf.type(entry.type_id)
        if not isinstance(variable, Var) or variable.name not in undefined:
            continue
        type_ = btf.type(btf.resolve(variable.type_id))
        align = 1 if isinstance(type_, Array) else btf.size(variable.type_id)
        size = btf.size(variable.type_id)
        if not size or align not in (1, 2, 4, 8) or size > MAX_BYTES:
            raise InputError(
                f"extern {variable.name} has a type that no value of a configuration has",
                where=elf.path,
                remedy="use bool, char, an integer, char[] or enum libbpf_tristate",
            )
        found.append((variable, size, align))
    if len(found) > MAX_VALUES:
        raise InputError(f"{len(found)} kconfig values: the limit is {MAX_VALUES}", where=elf.path)
    return found


def _encoded(
    text: str, btf: Btf, type_id: int, size: int, order: str, where: str, source: str
) -> bytes:
    """The bytes of a value for a variable of this type."""
    type_ = btf.type(btf.resolve(type_id))
    number: int | None = None
    if text in _TRISTATE:
        three = isinstance(type_, Enum) and type_.name == "libbpf_tristate"
        if three or (isinstance(type_, Int) and type_.boolean and text != "m"):
            number = _TRISTATE[text]
        elif _is_character(type_):
            number = ord(text)
    elif text.startswith('"'):
        if isinstance(type_, Array) and _is_character(btf.type(btf.resolve(type_.element_id))):
            if len(text) < 2 or not text.endswith('"'):
                raise InputError(f"{text} does not end", where=f"{where}: {source}")
            return text[1:-1].encode()[: size - 1].ljust(size, b"\0")
    elif isinstance(type_, Int) and not type_.boolean:
        number = _number(text)
        low, high = (
            (-(1 << 8 * size - 1), 1 << 8 * size - 1) if type_.signed else (0, 1 << 8 * size)
        )
        if number is not None and not low <= number < high:
            raise InputError(f"{text} does not fit {size} bytes", where=f"{where}: {source}")
    if number is None:
        raise InputError(
            f"its type has no value for {text}",
            where=f"{where}: {source}",
            remedy="use bool for y and n, enum libbpf_tristate for m, an integer, or char[]",
        )
    return (number % (1 << 8 * size)).to_bytes(size, "big" if order == "big" else "little")


def _is_character(type_: BtfType) -> bool:
    return isinstance(type_, Int) and type_.size == 1 and not type_.boolean


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _version(major: int, minor: int, patch: int) -> int:
    return major << 16 | minor << 8 | min(patch, 255)
