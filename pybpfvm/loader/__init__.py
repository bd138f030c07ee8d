"""From a compiled ELF object to programs and maps: `load`."""

from pybpfvm.loader.object import load

__all__ = ["load"]
