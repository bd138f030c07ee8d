"""The connection to a client: what it asks comes from a thread that reads on while others work, so
that a long move can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any, Protocol

from pybpfvm.debugger.dap.wire import BadMessage, BrokenStream, Readable, encoded, read_message

_MOST_WAITING = 1000  # requests that were read and not answered; then the client has to wait


class Writable(Protocol):
    """Where messages go."""

    def write(self, data: bytes, /) -> object:
        """All of the bytes."""

    def flush(self) -> object:
        """Let them go."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks; `arguments` as they came."""

    seq: int
    command: str
    arguments: object


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something came that is no request, for this reason."""

    reason: str


class ClientGone(Exception):
    """Nobody is there to be told."""


class Connection:
    """Messages from `source` and to `sink`. `came` is told each request at once, from the thread
    that reads, and None when there will be no more; where it says that it has answered one, `next`
    will not give it."""

    def __init__(
        self, source: Readable, sink: Writable, came: Callable[[Request | None], bool]
    ) -> None:
        self._source = source
        self._sink = sink
        self._came = came
        self._seq = 0
        self._sending = Lock()
        self._waiting: Queue[Request | Unusable | None] = Queue(_MOST_WAITING)
        self._ended = False
        Thread(target=self._read, daemon=True).start()

    def next(self, *, wait: bool = True) -> Request | Unusable | None:
        """The next request, None when there will be no more. Raises queue.Empty if there is none
        now and `wait` is false."""
        if self._ended:
            return None
        found = self._waiting.get(block=wait)
        self._ended = found is None
        return found

    def pending(self) -> bool:
        """Whether `next` would not have to wait."""
        return self._ended or not self._waiting.empty()

    def _read(self) -> None:
        try:
            while True:
                try:
                    message = read_message(self._source)
                except BadMessage as error:
                    self._waiting.put(Unusable(str(error)))
                    continue
                if message is None:
                    break
                found = _request(message)
                if found is None:
                    continue
                if isinstance(found, Request) and self._came(found):
                    continue
                self._waiting.put(found)
        except BrokenStream as error:
            self._waiting.put(Unusable(str(error)))
        except (OSError, ValueError):  # reset, or closed in this process
            pass
        self._came(None)
        self._waiting.put(None)

    # --- what is told -------------------------------------------------------------------------

    def event(self, name: str, body: Mapping[str, Any] | None = None) -> None:
        """Tell of an event. Raises ClientGone, as all of these do."""
        self._send({"type": "event", "event": name}, body)

    def answer(self, request: Request, body: Mapping[str, Any] | None = None) -> None:
        """Tell that a request was done."""
        self._send(self._response(request, True), body)

    def refuse(self, request: Request, reason: str, *, show: bool = False) -> None:
        """Tell why a request was not done; `show`: to the user, and not just to who asked."""
        # The text may hold braces, and `format` is a template with names in braces.
        error = {"id": 1, "format": "{reason}", "variables": {"reason": reason}, "showUser": show}
        self._send(self._response(request, False) | {"message": reason}, {"error": error})

    @staticmethod
    def _response(request: Request, success: bool) -> dict[str, Any]:
        return {
            "type": "response",
            "request_seq": request.seq,
            "command": request.command,
            "success": success,
        }

    def _send(self, message: dict[str, Any], body: Mapping[str, Any] | None) -> None:
        if body is not None:
            message["body"] = body
        with self._sending:
            self._seq += 1
            try:
                self._sink.write(encoded({"seq": self._seq, **message}))
                self._sink.flush()
            except (OSError, ValueError):
                raise ClientGone from None


def _request(message: Mapping[str, Any]) -> Request | Unusable | None:
    """What a message is; None for one that nobody has to care for."""
    kind = message.get("type")
    if kind == "response":
        return None  # nothing was asked of the client
    if kind != "request":
        return Unusable(f"a message of type {kind!r} is none for a debug adapter")
    seq, command = message.get("seq"), message.get("command")
    if not isinstance(seq, int) or isinstance(seq, bool):
        return Unusable(f"a request with seq {seq!r}")
    if not isinstance(command, str):
        return Unusable(f"request {seq} with command {command!r}")
    return Request(seq, command, message.get("arguments"))


__all__ = ["ClientGone", "Connection", "Empty", "Request", "Unusable", "Writable"]
