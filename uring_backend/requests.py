"""Requests in flight: what the ring remembers between an SQE and its last CQE.

The backend sees tokens instead of user_data. A token is the request's number on this ring, never
used again; requests of our own that nobody sees (`hide`) draw theirs from a range far above.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Protocol

from pybpfvm.bits import U32
from pybpfvm.errors import InternalError
from pybpfvm.uring_backend.abi import Op

_HIDDEN = 1 << 48
LINK = U32  # where a request is requeued to, in place of a CQ's index: behind the open chain
DIRECT_TOKENS = 1 << 61  # from here on: requests that compiled code issued
Ended = Callable[[int], None]


class Request:
    """One SQE on its way. `external`: the backend holds its place in a chain or drain. `chain`:
    the token of the first request in its chain, 0 without links. `wanted`: a success of fewer
    bytes is a failure, as far as CQE_SKIP_SUCCESS is concerned. `refused`: the errno that refuses
    the SQE, or 0."""

    __slots__ = (
        "chain",
        "cq",
        "external",
        "flags",
        "opcode",
        "origin",
        "refused",
        "sqe",
        "started",
        "token",
        "user_data",
        "wanted",
    )

    def __init__(self, token: int, sqe: bytes, user_data: int, cq: int, origin: str) -> None:
        self.token = token
        self.sqe = sqe
        self.opcode = sqe[0]
        self.flags = sqe[1]
        self.user_data = user_data
        self.cq = cq
        self.origin = origin
        self.chain = 0
        self.refused = 0
        self.wanted = 0
        self.external = False
        self.started = False


class BpfRequest(Request):
    """A request that runs `program`, registered in `slot`; wait_* and `futex` (address, value, and
    result of the last wait) are its context's fields, `data` (start, end) is the memory that it
    named, `user` what its user_data was found to point to, zeros for none. `unpin` gives up what is
    kept for it, when it is over."""

    __slots__ = (
        "data",
        "futex",
        "parked",
        "program",
        "recheck",
        "runs",
        "slot",
        "unpin",
        "user",
        "wait_idx",
        "wait_nr",
    )

    def __init__(self, token: int, sqe: bytes, user_data: int, cq: int, origin: str) -> None:
        super().__init__(token, sqe, user_data, cq, origin)
        self.slot = -1
        self.program = -1
        self.data = (0, 0)
        self.user = 0
        self.futex = (0, 0, 0)
        self.unpin: Callable[[], None] | None = None
        self.runs = 0
        self.wait_nr = 0
        self.wait_idx = 0
        self.recheck = False
        self.parked = 0


class DirectRequests(Protocol):
    """Requests in flight that compiled code issued. They become live when somebody claims them."""

    def in_flight(self) -> int:
        """How many there are that nobody claimed."""

    def claim(self, token: int) -> None:
        """Make a live request of this one."""

    def claim_all(self) -> None:
        """Make live requests of all, oldest first."""

    def release(self, token: int) -> bool:
        """One that was claimed is over; whether it was at once, in a run that goes on."""


class Tokens:
    """The token of the next request; rings beside one another take theirs from one of these."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 1


class RequestTable:
    """Live requests by token and by user_data (oldest first), and hidden ones."""

    def __init__(self) -> None:
        self.live: dict[int, Request] = {}
        self._by_user_data: dict[int, dict[int, Request]] = {}
        self._hidden: dict[int, Ended] = {}
        self._next_hidden = _HIDDEN

    def add(self, request: Request) -> None:
        """The request is live from now on."""
        self.live[request.token] = request
        same = self._by_user_data.get(request.user_data)
        if same is None:
            self._by_user_data[request.user_data] = {request.token: request}
        else:
            same[request.token] = request

    def retire(self, request: Request) -> None:
        """The request's last CQE is out."""
        if self.live.pop(request.token, None) is None:
            raise InternalError(f"request {request.token} ended twice")
        self._forget(request)
        if isinstance(request, BpfRequest) and request.unpin is not None:
            request.unpin()
            request.unpin = None

    def rename(self, request: Request, user_data: int) -> None:
        """Its CQEs carry another user_data from now on."""
        self._forget(request)
        request.user_data = user_data
        self.add(request)

    def matches(self, user_data: int, opcodes: Container[int] | None = None) -> Iterator[Request]:
        """Live requests with this user_data, oldest first, of these opcodes (None: all)."""
        for request in list(self._by_user_data.get(user_data, {}).values()):
            if opcodes is None or request.opcode in opcodes:
                yield request

    def hide(self, ended: Ended) -> int:
        """A token for a request of our own; `ended` is called with its result."""
        self._next_hidden += 1
        self._hidden[self._next_hidden] = ended
        return self._next_hidden

    def unused_token(self) -> int:
        """A token that no request ever has."""
        self._next_hidden += 1
        return self._next_hidden

    def take_hidden(self, token: int) -> Ended | None:
        """Who waits for the hidden request `token`, once."""
        return self._hidden.pop(token, None)

    def _forget(self, request: Request) -> None:
        same = self._by_user_data[request.user_data]
        del same[request.token]
        if not same:
            del self._by_user_data[request.user_data]


# These only tell, or undo: whoever does them over and over comes to nothing.
_TELLS = frozenset(
    (
        Op.NOP,
        Op.TIMEOUT,
        Op.TIMEOUT_REMOVE,
        Op.LINK_TIMEOUT,
        Op.POLL_ADD,
        Op.POLL_REMOVE,
        Op.ASYNC_CANCEL,
    )
)
# Of these, no bytes are nothing.
_TRANSFERS = frozenset(
    (
        Op.READ,
        Op.READV,
        Op.READ_FIXED,
        Op.READV_FIXED,
        Op.READ_MULTISHOT,
        Op.RECV,
        Op.RECVMSG,
        Op.WRITE,
        Op.WRITEV,
        Op.WRITE_FIXED,
        Op.WRITEV_FIXED,
        Op.SEND,
        Op.SENDMSG,
        Op.SEND_ZC,
        Op.SENDMSG_ZC,
        Op.SPLICE,
        Op.TEE,
    )
)
_NOTHING_AT_0 = _TELLS | _TRANSFERS


def came_to_something(opcode: int, res: int) -> bool:
    """Whether a request that ended with `res` has moved bytes or changed what others see."""
    return res >= 0 and opcode not in (_TELLS if res else _NOTHING_AT_0)
