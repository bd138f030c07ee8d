"""Messages of the Debug Adapter Protocol on a stream of bytes.

    Content-Length: 27\\r\\n
    \\r\\n
    {"seq": 1, "type": "event"}

Debug Adapter Protocol, "Base Protocol".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

MAX_HEADER_BYTES = 4096
MAX_BODY_BYTES = 16 << 20
_AT_ONCE = 1 << 16
_LENGTH = b"content-length"


class Readable(Protocol):
    """Where messages come from."""

    def readline(self, size: int, /) -> bytes:
        """A line with its end, or what there is of it; at most `size` bytes."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end of the stream."""


class Incoming:
    """What comes from `receive`, which gives at most so many bytes and none at the end. Nothing is
    held while it waits, so who waits in another thread need not be waited for."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._held = bytearray()
        self._at_end = False

    def readline(self, size: int, /) -> bytes:
        """As Readable."""
        while True:
            end = self._held.find(b"\n", 0, size) + 1
            if end or len(self._held) >= size:
                return self._taken(end or size)
            if not self._more():
                return self._taken(size)

    def read(self, size: int, /) -> bytes:
        """As Readable."""
        while len(self._held) < size and self._more():
            pass
        return self._taken(size)

    def _more(self) -> bool:
        data = b"" if self._at_end else self._receive(_AT_ONCE)
        self._at_end = not data
        self._held += data
        return bool(data)

    def _taken(self, size: int) -> bytes:
        found = bytes(self._held[:size])
        del self._held[:size]
        return found


class BadMessage(Exception):
    """What came is no message, but where the next one begins is known."""


class BrokenStream(Exception):
    """What came is no message, and where the next one begins nobody knows."""


def read_message(stream: Readable) -> dict[str, Any] | None:
    """The next message, None at the end of the stream.

    Raises BadMessage, after which the next one can be read, BrokenStream, and OSError.
    """
    length = _read_header(stream)
    if length is None:
        return None
    body = stream.read(length)
    if len(body) < length:
        raise BrokenStream(f"the stream ends after {len(body)} of {length} bytes of a message")
    try:
        message = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadMessage(f"a message is not UTF-8: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"a message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise BadMessage(f"a message is no JSON object but {type(message).__name__}")
    return message


def _read_header(stream: Readable) -> int | None:
    """The length of the body in bytes, None at the end of the stream."""
    length: int | None = None
    taken = 0
    while True:
        line = stream.readline(MAX_HEADER_BYTES)
        taken += len(line)
        if not line:
            if taken:
                raise BrokenStream("the stream ends in the header of a message")
            return None
        if not line.endswith(b"\n") or taken > MAX_HEADER_BYTES:
            raise BrokenStream(f"the header of a message is longer than {MAX_HEADER_BYTES} bytes")
        line = line.strip()
        if not line:
            break
        name, colon, value = line.partition(b":")
        if not colon:
            raise BrokenStream(f"{_shown(line)} is no field of a header (NAME: VALUE)")
        if name.strip().lower() == _LENGTH:
            length = _length(value.strip())
    if length is None:
        raise BrokenStream("a header without Content-Length")
    return length


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise BrokenStream(f"Content-Length {_shown(value)} is no number of bytes")
    length = int(value)
    if length > MAX_BODY_BYTES:
        raise BrokenStream(f"a message of {length} bytes, at most {MAX_BODY_BYTES} are taken")
    return length


def _shown(data: bytes) -> str:
    return repr(data[:40].decode("latin-1"))


def encoded(message: dict[str, Any]) -> bytes:
    """The message with its header."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
