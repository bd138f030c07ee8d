"""`python -m pybpfvm.jit.assemble`: write what the sources in `code/` come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from pybpfvm.jit.bytecode import binary
from pybpfvm.jit.natives import assembled_maps
from pybpfvm.jit.ringcode import LOOP_SOURCES, assembled_loop
from pybpfvm.jit.usercopies import assembled_user

SOURCES: Mapping[str, Callable[[], bytes]] = {
    "maps": assembled_maps,
    "user": assembled_user,
    **{name: partial(assembled_loop, source) for name, source in LOOP_SOURCES.items()},
}


def main() -> None:
    """Assemble all."""
    for name, assembled in SOURCES.items():
        binary(name).write_bytes(assembled())


if __name__ == "__main__":
    main()
