"""Serving clients of GDB's remote protocol on a socket, one after the other: they look at the same
recording, each where the one before left it."""

from __future__ import annotations

import os
import socket

from pybpfvm.debugger.debugger import Debugger
from pybpfvm.debugger.gdb.stub import Stub
from pybpfvm.debugger.listening import listen, serve_each


def serve_recording(
    path: str | os.PathLike[str], address: tuple[str, int], *, engine: str = "auto", once: bool
) -> None:
    """Serve clients at host and port until Ctrl-C (`once`: only the first). Raises InputError."""
    with Debugger(path, engine=engine) as debugger, listen(address) as listener:

        def serve(client: socket.socket) -> None:
            Stub(debugger, client).serve()

        serve_each(listener, serve, lambda _: None, once=once)
