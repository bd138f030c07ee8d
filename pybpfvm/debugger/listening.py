"""A server for one client at a time: recordings are replayed at the addresses that they had, which
a process has only once."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Event, Thread

from pybpfvm.errors import InputError

_LOOPBACK = "127.0.0.1"
_WAITING = 8  # connections that the kernel holds before they are looked at
_POLL_S = 0.5  # how long Ctrl-C may have to wait on systems where waiting is not interrupted
_REFUSING_S = 5


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[HOST]:PORT` or `PORT`, which is on 127.0.0.1; port 0 is any
    that is free. Raises InputError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or _LOOPBACK
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InputError(
            f"{text!r} is not HOST:PORT", where="--listen", remedy="e.g. --listen 127.0.0.1:4711"
        )
    return host, int(port)


def listen(address: tuple[str, int]) -> socket.socket:
    """A socket that listens there. Raises InputError."""
    host, port = address
    try:
        found = socket.create_server(
            address, family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_WAITING
        )
    except OSError as error:
        raise InputError(
            f"can not listen on {host}:{port}: {error.strerror or error}",
            where="--listen",
            remedy="another port, or 0 for any that is free",
        ) from None
    bound = found.getsockname()
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    print(f"listening on {shown}:{bound[1]}", file=sys.stderr, flush=True)
    if not ip_address(bound[0]).is_loopback:
        print(
            "note: whoever can reach this address can run programs here: nobody is asked who he is",
            file=sys.stderr,
            flush=True,
        )
    return found


def serve_each(
    listener: socket.socket,
    serve: Callable[[socket.socket], None],
    refuse: Callable[[socket.socket], None],
    *,
    once: bool = False,
) -> None:
    """Serve clients one after the other, in this thread, until Ctrl-C (`once`: only the first).
    Whoever comes while another is served is handed to `refuse`, from another thread, and its
    connection closed. Neither need care for a connection that breaks."""
    busy = Event()
    waiting: SimpleQueue[socket.socket | None] = SimpleQueue()
    Thread(target=_accept, args=(listener, busy, waiting, refuse), daemon=True).start()
    while True:
        try:
            client = waiting.get(timeout=_POLL_S)
        except Empty:
            continue
        if client is None:
            return
        with client:
            try:
                with suppress(OSError):
                    serve(client)
            finally:
                busy.clear()  # before the client can see that it is over
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)  # ends who reads from it in a thread
        if once:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            return


def _accept(
    listener: socket.socket,
    busy: Event,
    waiting: SimpleQueue[socket.socket | None],
    refuse: Callable[[socket.socket], None],
) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            waiting.put(None)
            return
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if busy.is_set():
            with client, suppress(OSError):
                client.settimeout(_REFUSING_S)
                refuse(client)
        else:
            busy.set()
            waiting.put(client)
