"""What hosts of the merged upstream ABI have in common: an object on a ring that it drives."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pybpfvm.session import LoopRing, Machine
from pybpfvm.session.hostring import BackendName

ENTRIES, CQ_ENTRIES = 8, 16


@contextmanager
def attached(
    folder: Path, callbacks: str, backend: BackendName, abi: str, engine: str
) -> Iterator[tuple[LoopRing, MutableMapping[str, Any]]]:
    """A ring with the program of an example, `callbacks` attached to it, and its variables."""
    with Machine() as machine:
        obj = machine.load(folder / "prog.bpf.o", abi=abi, constants={"cq_entries": CQ_ENTRIES})
        with LoopRing(
            ENTRIES,
            cq_entries=CQ_ENTRIES,
            backend=backend,
            abi=obj.profile,
            machine=machine,
            engine=engine,
        ) as ring:
            ring.attach(obj, callbacks)
            yield ring, cast("MutableMapping[str, Any]", obj.globals)


def command(main: Callable[..., None], text: str | None, *, clients: int | None = None) -> None:
    """Run a host's `main` as the command line says; `clients`: how many there are by default."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--abi", choices=["loop-7.1", "loop-7.2"], default="loop-7.2")
    if clients is not None:
        parser.add_argument("--clients", type=int, default=clients)
    args = parser.parse_args()
    more = {} if clients is None else {"clients": args.clients}
    main(args.backend, args.abi, **more)
