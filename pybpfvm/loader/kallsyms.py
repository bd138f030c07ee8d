"""Addresses of a kernel's symbols, for `extern const void NAME __ksym`: /proc/kallsyms.

Lines are `ADDRESS TYPE NAME [MODULE]`. Who may not see addresses sees zeros.
Linux Documentation/admin-guide/sysctl/kernel.rst, kptr_restrict; libbpf's documentation of externs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pybpfvm.errors import InputError

KALLSYMS = "/proc/kallsyms"
# What compilers append to the names of functions that they moved between files.
_MOVED = ".llvm."
_MAX_LINES = 4 << 20


@dataclass(slots=True)
class Kallsyms:
    """The symbols in a file, which is read when the first is asked for. `hidden` says why there are
    none to see, "" where there are."""

    path: str = KALLSYMS
    hidden: str = ""
    _found: dict[str, set[int]] | None = field(default=None, repr=False)

    def addresses(self, name: str) -> frozenset[int]:
        """Where symbols of this name are: several, if files have one each; none if there is none,
        or they are hidden."""
        if self._found is None:
            self._read()
        assert self._found is not None
        return frozenset(self._found.get(name, ()))

    def _read(self) -> None:
        self._found = {}
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                self._found = parse_symbols(file, self.path)
        except OSError as error:
            self.hidden = f"{self.path} can not be read: {error.strerror}"
            return
        if not any(address for found in self._found.values() for address in found):
            self._found = {}
            self.hidden = f"{self.path} shows no addresses here (kptr_restrict)"


def parse_symbols(lines: Iterable[str], where: str) -> dict[str, set[int]]:
    """Addresses by name. Raises InputError for a line that is none of a symbol table."""
    found: dict[str, set[int]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        try:
            address, _, name = int(words[0], 16), words[1], words[2]
        except (IndexError, ValueError):
            raise InputError(f"line {number} is not ADDRESS TYPE NAME", where=where) from None
        if number > _MAX_LINES:
            raise InputError(f"more than {_MAX_LINES:,} symbols", where=where)
        found.setdefault(name.partition(_MOVED)[0], set()).add(address)
    return found
