"""TCP sockets: connections over the virtual network.

What the other end sent and the network delivered is in `incoming`; what the network still carries
counts as sent, and against what the other end can take. `fin` says that the other end's FIN came:
from then on a receive of nothing is the end of the stream, whatever happens later.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Final

from pybpfvm.uring_backend.abi import (
    AF_INET,
    AF_UNSPEC,
    MSG_PEEK,
    MSG_TRUNC,
    POLLERR,
    POLLHUP,
    POLLRDHUP,
    SOCK_STREAM,
    SOL_TCP,
    TCP_CORK,
)
from pybpfvm.uring_backend.base import SocketState as Held
from pybpfvm.uring_backend.sim.clock import Alarm
from pybpfvm.uring_backend.sim.descriptors import Node, WaitQueue
from pybpfvm.uring_backend.sim.inet import Ports, family_of, port_of
from pybpfvm.uring_backend.sim.network import CONNECT_LIMIT_NS, Network, Path
from pybpfvm.uring_backend.sim.request import Refused
from pybpfvm.uring_backend.sim.sockets import (
    IN,
    OUT,
    SOCKET_BYTES,
    TELL_IN,
    TELL_OUT,
    Received,
    Socket,
    SocketState,
    check_how,
    inet_address,
)
from pybpfvm.uring_backend.sim.streams import Bytes

_SEGMENT_BYTES: Final = 1460  # what the network carries in one piece
_CORK_NS: Final = 200_000_000  # the most that less than a segment waits for more


class TcpSocket(Socket):
    """A TCP socket: a listener, or one end of a connection. A port is 0 until it has one."""

    domain = AF_INET
    kind = SOCK_STREAM
    protocol = SOL_TCP
    zero_copy = True

    def __init__(self, ports: Ports[TcpSocket], network: Network) -> None:
        super().__init__()
        self._ports = ports
        self._network = network
        self.port = 0
        self.peer_port = 0
        self.incoming = Bytes(SOCKET_BYTES)
        self.peer: TcpSocket | None = None
        self.fin = False
        self._ended = False  # reset, or both directions are over
        self._closed = False  # nobody has it open
        self._failed = False  # to connect, by the last try
        self._sent_fin = False
        self._in_flight = 0  # bytes that the network carries to the other end
        self._path: Path | None = None
        self._corked = bytearray()  # taken, but not on its way yet
        self._cork_alarm: Alarm | None = None
        self._backlog = 0
        self._pending: deque[TcpSocket] = deque()
        self._arriving = 0  # connections that the network carries to this listener

    # --- connecting ---------------------------------------------------------------------------

    def bind(self, address: bytes) -> None:
        port = port_of(address, binding=True)
        if self.port:
            raise Refused(errno.EINVAL)
        self.port = self._ports.bind(self, port)

    def listen(self, backlog: int) -> None:
        if self.state in (SocketState.CONNECTED, SocketState.CONNECTING):
            raise Refused(errno.EINVAL)
        if self._failed:
            raise Refused(errno.EINVAL)
        if not self.port:
            self.port = self._ports.bind(self, 0)
        self.state = SocketState.LISTENING
        self._ports.check_listener(self)
        self._backlog = backlog

    @property
    def full(self) -> bool:
        """Whether a listener's queue takes no more connections."""
        return len(self._pending) + self._arriving > self._backlog

    @property
    def pending(self) -> int:
        return len(self._pending)

    def queue_of(self, address: bytes) -> WaitQueue:
        listener = self._ports.listener(port_of(address))
        return self.queue if listener is None else listener.queue

    def connect(self, address: bytes) -> bool:
        if len(address) >= 2 and family_of(address) == AF_UNSPEC:
            self._disconnect()
            return True
        if self.state is SocketState.CONNECTING:
            raise Refused(errno.EALREADY)
        if self.state is not SocketState.FRESH:
            if len(address) < 2:
                raise Refused(errno.EINVAL)
            raise Refused(errno.EISCONN)
        port = port_of(address)
        listener = self._ports.listener(port)
        if listener is not None and listener.full:
            raise Refused(errno.EAGAIN)
        bound = bool(self.port)
        if not bound:
            self.port = self._ports.client(self)
        self.peer_port = port
        self.state = SocketState.CONNECTING
        if self._failed:
            self._failed = self.shut_in = self.shut_out = False
        path = self._network.path((self.port, port), ordered=True)
        outcome: list[int] = []

        def answered(error: int) -> None:
            outcome.append(error)
            if self._path is not path or self.state is not SocketState.CONNECTING:
                return
            if error:
                self._end_attempt(error, keep_port=bound)
            else:
                self.state = SocketState.CONNECTED
                self._network.join(self)
            self.queue.wake(TELL_OUT if not error else 0)

        def arrived() -> None:
            target = self._ports.listener(port)
            if target is not None and counted is target:
                target._arriving -= 1
            if self._path is not path or self.state is not SocketState.CONNECTING:
                return
            if target is None:
                back = self._network.path((self.port, port), ordered=False)
                back.carry(0, lambda: answered(errno.ECONNREFUSED))
                return
            end = target._offer(self)
            assert end._path is not None
            end._path.carry(0, lambda: answered(0))

        counted = listener
        if listener is not None:
            listener._arriving += 1
        self._path = path
        path.carry(0, arrived)
        if outcome:
            error = outcome[0]
            if error:
                self.error = 0
                raise Refused(error)
            return True

        def late() -> None:
            if self._path is path and self.state is SocketState.CONNECTING:
                answered(errno.ETIMEDOUT)

        self._network.clock.at(self._network.clock.now_ns + CONNECT_LIMIT_NS, late)
        return False

    def connected(self) -> None:
        if self.state is SocketState.CONNECTING:
            raise Refused(errno.EAGAIN)
        self.tell_error()
        if self.state is not SocketState.CONNECTED:
            raise Refused(errno.ECONNREFUSED)

    def _end_attempt(self, error: int, *, keep_port: bool) -> None:
        self.state = SocketState.FRESH
        self.error = error
        if error:  # io_uring leaves it so, where connect(2) would make it like a new one
            self._failed = self.shut_in = self.shut_out = True
        self.peer_port = 0
        if self.peer is not None:  # a listener already knows of it
            self.peer.abort()
            self.peer = None
        if self._path is not None:
            self._network.drop([self._path])
            self._path = None
        if not keep_port:
            self._ports.free(self)
            self.port = 0

    def _offer(self, client: TcpSocket) -> TcpSocket:
        """A SYN came: the end that `accept` will give."""
        end = TcpSocket(self._ports, self._network)
        end.port, end.peer_port = self.port, client.port
        end.linger_s, end._options = self.linger_s, dict(self._options)
        end.state = SocketState.CONNECTED
        end._path = self._network.path((client.port, self.port), ordered=True)
        end.peer, client.peer = client, end
        self._network.join(end)
        self._pending.append(end)
        self.queue.wake(TELL_IN)
        return end

    def accept(self) -> TcpSocket:
        return self._first(self._pending)

    def local_address(self) -> bytes:
        return inet_address(self.port)

    def peer_address(self) -> bytes:
        return inet_address(self.peer_port)

    # --- transfer -----------------------------------------------------------------------------

    def receive(self, size: int, flags: int = 0) -> Received:
        if self.state is SocketState.LISTENING or (
            self.state is SocketState.FRESH and not self.error and not self.shut_in
        ):
            raise Refused(errno.ENOTCONN)
        if not len(self.incoming):
            if not self.fin:
                self.tell_error()
                if not self.shut_in:
                    raise Refused(errno.EAGAIN)
            return Received(b"", 0, waiting=int(self.fin))
        keep = bool(flags & MSG_PEEK)
        data = self.incoming.get(size, keep=keep)
        if not keep and self.peer is not None and self.peer.poll() & OUT:
            self.peer.queue.wake(TELL_OUT)
        shown = b"" if flags & MSG_TRUNC else data  # thrown away instead of copied
        return Received(shown, len(data), waiting=len(self.incoming) or int(self.fin))

    def refuse_to_send(self, address: bytes = b"") -> None:
        if self.state is SocketState.CONNECTING:
            raise Refused(errno.EAGAIN)
        self.tell_error()
        if self.state is not SocketState.CONNECTED or self.shut_out or self._ended:
            raise Refused(errno.EPIPE)

    def send(self, data: bytes, address: bytes = b"", *, more: bool = False) -> int:
        self.refuse_to_send()
        taken = data[: self._room]
        if data and not taken:
            self._uncork()
            raise Refused(errno.EAGAIN)
        self._in_flight += len(taken)
        self._corked += taken
        if not (more or self._corking) or len(self._corked) >= _SEGMENT_BYTES:
            self._uncork()
        elif self._corked and self._cork_alarm is None:
            clock = self._network.clock
            self._cork_alarm = clock.at(clock.now_ns + _CORK_NS, self._uncork)
        return len(taken)

    @property
    def _corking(self) -> bool:
        return bool(self._options.get((SOL_TCP, TCP_CORK)))

    def _uncork(self) -> None:
        """Give the network what was kept for want of a full segment."""
        if self._cork_alarm is not None:
            self._network.clock.cancel(self._cork_alarm)
            self._cork_alarm = None
        data, self._corked = bytes(self._corked), bytearray()
        path = self._path
        for at in range(0, len(data) if path is not None else 0, _SEGMENT_BYTES):
            segment = data[at : at + _SEGMENT_BYTES]
            assert path is not None
            path.carry(len(segment), lambda segment=segment: self._deliver(segment))  # type: ignore[misc]

    def set_option(self, level: int, name: int, value: bytes) -> None:
        super().set_option(level, name, value)
        if level == SOL_TCP and not self._corking:
            self._uncork()

    @property
    def _room(self) -> int:
        room = SOCKET_BYTES if self.peer is None else self.peer.incoming.room
        return max(room - self._in_flight, 0)

    def _deliver(self, segment: bytes) -> None:
        """The network is through with a segment that this end sent."""
        self._in_flight -= len(segment)
        peer = self.peer
        if peer is None or self._path is None:
            return  # broken in the meantime
        if peer._closed:  # the answer to data for nobody is a RST
            peer._carry(self.abort)
            return
        if peer._sent_fin and peer.shut_in and not peer.fin:  # it neither reads nor writes
            peer._carry(self.abort)
            peer.abort()
            return
        peer.incoming.put(segment)
        peer.queue.wake(TELL_IN)

    def _carry(self, arrive: Callable[[], None]) -> None:
        """Send something without data."""
        if self._path is None:
            arrive()
        else:
            self._path.carry(0, arrive)

    def unread(self) -> int:
        if self.state is SocketState.LISTENING:
            raise Refused(errno.EINVAL)
        return len(self.incoming)

    def unsent(self) -> int:
        if self.state is SocketState.LISTENING:
            raise Refused(errno.EINVAL)
        return self._in_flight

    # --- ends ---------------------------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        ends_in, ends_out = check_how(how)
        if self.state is SocketState.LISTENING:
            if ends_in:
                self._stop_listening()
            return
        if self.state is SocketState.CONNECTING:
            self._end_attempt(0, keep_port=False)
            self.queue.wake()
            return
        self.shut_in |= ends_in
        self.shut_out |= ends_out
        if self.state is not SocketState.CONNECTED or self._ended:
            self.queue.wake()
            raise Refused(errno.ENOTCONN)
        if ends_out:
            self._send_fin()
        self.queue.wake()

    def _send_fin(self) -> None:
        if self._sent_fin or self._ended:
            return
        self._sent_fin = True
        self._uncork()
        self._carry(self._deliver_fin)

    def _deliver_fin(self) -> None:
        peer = self.peer
        if peer is not None and not peer._ended:
            peer.fin = peer.shut_in = True
            peer._end_if_over()
            peer.queue.wake()
        self._end_if_over()

    def _end_if_over(self) -> None:
        """TIME_WAIT, or CLOSE: both ends have said that they send no more."""
        if self._sent_fin and self.fin and not self._ended:
            self._ended = True
            self._give_port_back()

    def _give_port_back(self) -> None:
        """As the kernel does when a connection is over; the socket is not released yet."""
        self._network.leave(self)
        self._ports.free(self)
        self.port = 0

    def abort(self, error: int = 0) -> None:
        """A RST came, or the network broke the connection."""
        if self.state is not SocketState.CONNECTED or self._ended:
            return
        self.error = error or (errno.EPIPE if self.fin else errno.ECONNRESET)
        self.shut_in = self.shut_out = self._ended = True
        if self._path is not None:
            self._network.drop([self._path])
            self._path = None
        self._give_port_back()
        self.queue.wake()

    def _disconnect(self) -> None:
        """connect(2) to AF_UNSPEC: what there was is reset, and the socket like a new one."""
        if self.state is SocketState.LISTENING:
            self._stop_listening()
        elif self.state is SocketState.CONNECTING:
            self._end_attempt(0, keep_port=False)
            self.error = errno.ECONNRESET
        elif self.state is SocketState.CONNECTED and not self._ended:
            self._reset_other_end()
            self._give_port_back()
            self.error = errno.ECONNRESET
        self.incoming.clear()
        self._corked.clear()
        self.state = SocketState.FRESH
        self.port = self.peer_port = self._in_flight = 0
        self.peer = self._path = None
        self.fin = self.shut_in = self.shut_out = False
        self._ended = self._sent_fin = self._failed = False
        self.queue.wake()

    def _stop_listening(self) -> None:
        pending, self._pending = self._pending, deque()
        for end in pending:
            end.linger_s = 0  # nobody will ever read from it
            end.released()
        self._ports.free(self)
        self.port = 0
        self.state = SocketState.FRESH
        self.queue.wake()

    @property
    def breakable(self) -> bool:
        """Whether there is a connection that can be reset."""
        return self.state is SocketState.CONNECTED and not self._ended

    def break_off(self) -> None:
        """The connection is reset, both ends."""
        self._reset_other_end()
        self.abort()

    def _reset_other_end(self) -> None:
        if self.peer is not None and not self._ended:
            self._carry(self.peer.abort)

    def released(self) -> None:
        if self.state is SocketState.LISTENING:
            self._stop_listening()
        elif self.state is SocketState.CONNECTING:
            self._end_attempt(0, keep_port=False)
        elif self.state is SocketState.CONNECTED:
            self._closed = True
            if len(self.incoming) or self.linger_s == 0:
                self._reset_other_end()
                self._ended = True
            else:
                self._send_fin()
            path = self._path
            if path is not None:
                path.carry(0, lambda: self._network.drop([path]))
        self.incoming.clear()
        self._give_port_back()

    # --- readiness ----------------------------------------------------------------------------

    def poll(self) -> int:
        if self.state is SocketState.LISTENING:
            return IN if self._pending else 0
        events = POLLERR if self.error else 0
        if self.state is SocketState.CONNECTING:
            return events
        closed = self.state is SocketState.FRESH or self._ended
        if closed or (self.shut_in and self.shut_out):
            events |= POLLHUP
        if self.shut_in:
            events |= IN | POLLRDHUP
        if len(self.incoming):
            events |= IN
        if closed or self.shut_out or self._room * 2 >= SOCKET_BYTES:
            events |= OUT
        return events


class SocketWake:
    """base.Wake of a file `node`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def _socket(self) -> TcpSocket | int:
        if isinstance(self._node, TcpSocket):
            return self._node
        return -errno.EOPNOTSUPP if isinstance(self._node, Socket) else -errno.ENOTSOCK

    def state(self) -> Held | int:
        """What the socket holds, or -errno. Memory is what the bytes take, and no more."""
        socket = self._socket()
        if isinstance(socket, int):
            return socket
        held = len(socket.incoming)
        return Held(held, socket.incoming.capacity, held, _SEGMENT_BYTES)

    def peek(self, size: int) -> bytes | int:
        """What waits there, or -errno."""
        socket = self._socket()
        if isinstance(socket, int):
            return socket
        return socket.incoming.get(size, keep=True) or -errno.EAGAIN
