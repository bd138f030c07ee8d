"""Clients of an echo server, in a process of their own: `python -m tests.support.echo_clients`.

    PORT BUSY MESSAGES SLOW SILENT RESET

BUSY clients send MESSAGES of 64 bytes each, one after the other, all at the same time. SLOW ones
send 256 KiB and begin to read when the busy ones are through. SILENT ones connect and say nothing;
RESET ones vanish in the middle of an answer. Prints "ok", or what went wrong.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from random import Random

MESSAGE_BYTES = 64
SLOW_BYTES = 256 << 10
_PATIENCE_S = 60


def connected(port: int) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
    end.setblocking(False)
    return end


def busy(port: int, count: int, messages: int) -> None:
    """Every message comes back, in order, to the one that sent it."""
    poll = select.epoll()
    ends: dict[int, tuple[socket.socket, bytes, list[int]]] = {}
    for index in range(count):
        end = connected(port)
        content = Random(index).randbytes(MESSAGE_BYTES)
        ends[end.fileno()] = end, content, [0, 0]  # messages, bytes of the answer under way
        poll.register(end.fileno(), select.EPOLLIN)
    for end, content, _ in ends.values():
        end.send(content)
    left = count
    while left:
        events = poll.poll(_PATIENCE_S)
        if not events:
            raise SystemExit(f"{left} of {count} clients wait for an answer")
        for fd, _ in events:
            end, content, seen = ends[fd]
            data = end.recv(4096)
            if not data or content[seen[1] : seen[1] + len(data)] != data:
                raise SystemExit("an answer is not what was sent")
            seen[1] += len(data)
            if seen[1] < MESSAGE_BYTES:
                continue
            seen[0] += 1
            seen[1] = 0
            if seen[0] < messages:
                end.send(content)
            else:
                poll.unregister(fd)
                end.close()
                left -= 1


class Slow:
    """Sends much and reads nothing for the time being."""

    def __init__(self, port: int) -> None:
        self._end = connected(port)
        self._content = Random(port).randbytes(SLOW_BYTES)
        self._sent = 0
        self._send()

    def _send(self) -> None:
        try:
            while self._sent < SLOW_BYTES:
                self._sent += self._end.send(self._content[self._sent :])
        except BlockingIOError:
            pass

    def finish(self) -> None:
        got = bytearray()
        while len(got) < SLOW_BYTES:
            wanted = [self._end] if self._sent < SLOW_BYTES else []
            readable, writable, _ = select.select([self._end], wanted, [], _PATIENCE_S)
            if writable:
                self._send()
            if readable:
                data = self._end.recv(65536)
                if not data:
                    raise SystemExit("a slow reader was cut off")
                got += data
            if not readable and not writable:
                raise SystemExit("a slow reader waits for the rest")
        if got != self._content:
            raise SystemExit("a slow reader got something else")
        self._end.close()


def main(port: int, count: int, messages: int, slow: int, silent: int, resets: int) -> None:
    quiet = [connected(port) for _ in range(silent)]
    readers = [Slow(port) for _ in range(slow)]
    for _ in range(resets):
        end = connected(port)
        end.send(bytes(MESSAGE_BYTES))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
    busy(port, count, messages)
    for reader in readers:
        reader.finish()
    for end in quiet:
        end.close()
    print("ok")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
