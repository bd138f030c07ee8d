"""Packets of GDB's remote serial protocol on a stream of bytes.

    $packet-data#checksum        two hex digits: the sum of the bytes of packet-data, modulo 256
    +  -                         acknowledged, or to be sent again; until QStartNoAckMode
    0x03                         interrupt what runs

"Debugging with GDB", appendix "GDB Remote Serial Protocol", "Overview".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Queue
from threading import Lock, Thread
from typing import Protocol

MAX_PACKET_BYTES = 1 << 16
_MOST_WAITING = 1000
_INTERRUPT, _ESCAPE = 0x03, 0x7D
_TO_ESCAPE = frozenset(b"#$}*")
_ESCAPED_BY = 0x20


class Stream(Protocol):
    """What a socket does."""

    def recv(self, size: int, /) -> bytes:
        """Some bytes, none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """All of the bytes."""


class ClientGone(Exception):
    """Nobody is there to be told."""


class Interrupted:
    """The client wants what runs to stop."""


class Packets:
    """Packets from and to a client. `interrupt` is called at once, from the thread that reads, for
    0x03 and when the client is gone."""

    def __init__(self, stream: Stream, interrupt: Callable[[], None]) -> None:
        self.acknowledging = True
        self._stream = stream
        self._interrupt = interrupt
        self._waiting: Queue[bytes | Interrupted | None] = Queue(_MOST_WAITING)
        self._ended = False
        self._last = b""
        self._sending = Lock()  # both threads do
        Thread(target=self._read, daemon=True).start()

    def next(self) -> bytes | Interrupted | None:
        """What the next packet holds, None when there will be no more. Raises ClientGone."""
        while not self._ended:
            found = self._waiting.get()
            if found is None:
                self._ended = True
            elif found == b"-":
                self._write(self._last)
                continue
            return found
        return None

    def send(self, data: bytes) -> None:
        """Send a packet. Raises ClientGone."""
        self._last = framed(data)
        self._write(self._last)

    def _write(self, data: bytes) -> None:
        try:
            with self._sending:
                self._stream.sendall(data)
        except OSError:
            raise ClientGone from None

    # --- the thread that reads ----------------------------------------------------------------

    def _read(self) -> None:
        taking: bytearray | None = None  # a packet from its $ on
        try:
            while data := self._stream.recv(1 << 16):
                for byte in data:
                    if taking is not None:
                        taking.append(byte)
                        if len(taking) > MAX_PACKET_BYTES:
                            taking = None
                            self._acknowledge(b"-")
                        elif len(taking) > 3 and taking[-3] == ord("#"):
                            self._packet(bytes(taking[1:-3]), bytes(taking[-2:]))
                            taking = None
                    elif byte == ord("$"):
                        taking = bytearray(b"$")
                    elif byte == _INTERRUPT:
                        self._interrupt()
                        self._waiting.put(Interrupted())
                    elif byte == ord("-") and self.acknowledging:
                        self._waiting.put(b"-")
        except OSError:
            pass
        self._interrupt()
        self._waiting.put(None)

    def _packet(self, data: bytes, checksum: bytes) -> None:
        try:
            good = int(checksum, 16) == sum(data) & 0xFF
        except ValueError:
            good = False
        if self.acknowledging:
            self._acknowledge(b"+" if good else b"-")
        if good:
            packet = unescaped(data)
            if packet == b"QStartNoAckMode":  # from the next packet on, which may be here already
                self.acknowledging = False
            self._waiting.put(packet)

    def _acknowledge(self, what: bytes) -> None:
        if self.acknowledging:
            with suppress(ClientGone):  # what it sent before it went still counts
                self._write(what)


def framed(data: bytes) -> bytes:
    """The data as a packet."""
    escaped = bytearray()
    for byte in data:
        if byte in _TO_ESCAPE:
            escaped += bytes((_ESCAPE, byte ^ _ESCAPED_BY))
        else:
            escaped.append(byte)
    return b"$%b#%02x" % (bytes(escaped), sum(escaped) & 0xFF)


def unescaped(data: bytes) -> bytes:
    """What a packet's data stands for."""
    if _ESCAPE not in data:
        return data
    found = bytearray()
    escape = False
    for byte in data:
        if not escape and byte == _ESCAPE:
            escape = True
            continue
        found.append(byte ^ _ESCAPED_BY if escape else byte)
        escape = False
    return bytes(found)
