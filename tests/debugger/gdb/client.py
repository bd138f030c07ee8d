"""A client of GDB's remote protocol for tests, written from its document."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from pybpfvm.debugger import Debugger
from pybpfvm.debugger.gdb.packets import framed, unescaped
from pybpfvm.debugger.gdb.stub import Stub

TIMEOUT_S = 60.0


class Client:
    """One end of a connection to a stub. `told` is what came in O packets."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.told = ""
        self._acknowledging = True
        self._held = b""
        connection.settimeout(TIMEOUT_S)

    def send(self, data: str) -> None:
        """A packet."""
        self.connection.sendall(framed(data.encode("latin-1")))

    def ask(self, data: str) -> str:
        """A packet and its answer."""
        self.send(data)
        if self._acknowledging:
            assert self._taken(1) == b"+"
        return self.answer()

    def answer(self) -> str:
        """What comes next that is no output."""
        while True:
            found = self._packet()
            if not (found.startswith("O") and found != "OK"):
                return found
            self.told += bytes.fromhex(found[1:]).decode()

    def _packet(self) -> str:
        assert self._taken(1) == b"$"
        data = b""
        while (byte := self._taken(1)) != b"#":
            data += byte
        assert int(self._taken(2), 16) == sum(data) & 0xFF
        if self._acknowledging:
            self.connection.sendall(b"+")
        return unescaped(data).decode("latin-1")

    def _taken(self, size: int) -> bytes:
        while len(self._held) < size:
            data = self.connection.recv(1 << 16)
            if not data:
                raise EOFError("the stub has gone")
            self._held += data
        found, self._held = self._held[:size], self._held[size:]
        return found

    def without_acknowledging(self) -> None:
        """As clients on reliable connections."""
        assert self.ask("QStartNoAckMode") == "OK"
        self._acknowledging = False

    def monitor(self, line: str) -> str:
        """What a command of the debugger says."""
        self.told = ""
        assert self.ask(f"qRcmd,{line.encode().hex()}") == "OK"
        return self.told


@contextmanager
def served(recording: Path) -> Iterator[tuple[Client, Debugger]]:
    """A client of a recording that is served in this process."""
    ours, theirs = socket.socketpair()
    with Debugger(recording) as debugger, ours, theirs:
        debugger.goto(debugger.history.start)
        thread = Thread(target=Stub(debugger, theirs).serve, daemon=True)
        thread.start()
        try:
            yield Client(ours), debugger
        finally:
            ours.shutdown(socket.SHUT_WR)
            thread.join(TIMEOUT_S)
        assert not thread.is_alive()
