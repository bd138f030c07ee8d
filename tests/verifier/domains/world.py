"""The numeric domains at any word width: the package's own source, loaded with another word.

Every module of the package is executed a second time under its own name while `word` is replaced,
so that what the tests enumerate at 4 bits is the code that runs at 64.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from pybpfvm.isa import semantics
from pybpfvm.verifier.domains import alu, branch, interval, scalar, tnum, word

_PACKAGE = "pybpfvm.verifier.domains"
_MODULES = ("word", "tnum", "interval", "scalar", "alu", "branch")


@dataclass(frozen=True)
class World:
    """The modules of one width. Typed loosely: the small ones are not known to mypy."""

    bits: int
    word: Any
    tnum: Any
    interval: Any
    scalar: Any
    alu: Any
    branch: Any

    @property
    def full(self) -> int:
        return (1 << self.bits) - 1


@cache
def world(bits: int) -> World:
    """The domains over words of `bits` bits (an even power of two), with halves of `bits // 2`."""
    if bits == 64:
        return World(64, word, tnum, interval, scalar, alu, branch)
    names = [f"{_PACKAGE}.{module}" for module in _MODULES]
    real = {name: sys.modules[name] for name in names}
    package = sys.modules[_PACKAGE]
    # The reference semantics finds its masks in a table; give it those of this word.
    semantics._MASK.update({bits: (1 << bits) - 1, bits // 2: (1 << bits // 2) - 1})
    small: dict[str, ModuleType] = {}
    try:
        for module, name in zip(_MODULES, names):
            spec = importlib.util.spec_from_file_location(name, real[name].__file__)
            assert spec is not None
            assert spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            if module == "word":
                assert real[name].__file__ is not None
                with open(str(real[name].__file__)) as file:
                    source = file.read()
                assert source.count("BITS = 64\n") == 1
                exec(source.replace("BITS = 64\n", f"BITS = {bits}\n"), loaded.__dict__)
            else:
                spec.loader.exec_module(loaded)
            sys.modules[name] = small[module] = loaded
            setattr(package, module, loaded)
    finally:
        sys.modules.update(real)
        for module, name in zip(_MODULES, names):
            setattr(package, module, real[name])
    return World(bits, **small)
