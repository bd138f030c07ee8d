"""`python -m pybpfvm.jit.assemble`: write what the sources in `code/` come to."""

from __future__ import annotations

from pybpfvm.jit.bytecode import binary
from pybpfvm.jit.natives import assembled_maps
from pybpfvm.jit.ringcode import assembled_ring
from pybpfvm.jit.usercopies import assembled_user

SOURCES = {"ring": assembled_ring, "maps": assembled_maps, "user": assembled_user}


def main() -> None:
    """Assemble all."""
    for name, assembled in SOURCES.items():
        binary(name).write_bytes(assembled())


if __name__ == "__main__":
    main()
