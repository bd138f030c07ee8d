"""Serving clients of the Debug Adapter Protocol: one on stdin and stdout, or on a socket one after
the other."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

from pybpfvm.debugger.dap.adapter import Adapter
from pybpfvm.debugger.dap.connection import ClientGone, Connection, Request
from pybpfvm.debugger.dap.wire import Incoming
from pybpfvm.debugger.listening import listen, serve_each

_BUSY = (
    "another client is served: a process can replay one recording at a time (start another server)"
)


def serve_stdio() -> None:
    """Serve the client at stdin and stdout. What anything here prints goes to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)
        Adapter(Incoming(lambda size: os.read(0, size)), sink).serve()


def serve_socket(address: tuple[str, int], *, once: bool = False) -> None:
    """Serve clients at host and port until Ctrl-C (`once`: only the first). Raises InputError."""
    with listen(address) as listener:
        serve_each(listener, _serve, _refuse, once=once)


def _serve(client: socket.socket) -> None:
    with client.makefile("wb") as sink:
        Adapter(Incoming(client.recv), sink).serve()


def _refuse(client: socket.socket) -> None:
    """Answer the first request of a client that there is no place for."""
    with client.makefile("wb") as sink:
        connection = Connection(Incoming(client.recv), sink, lambda _: False)
        with suppress(ClientGone):
            request = connection.next()
            if isinstance(request, Request):
                connection.refuse(request, _BUSY, show=True)
