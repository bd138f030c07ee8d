"""Packets of GDB's protocol between two ends of a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pybpfvm.debugger.gdb.packets import (
    MAX_PACKET_BYTES,
    ClientGone,
    Interrupted,
    Packets,
    framed,
    unescaped,
)


@dataclass
class _Ends:
    client: socket.socket
    packets: Packets = field(init=False)
    interrupts: int = 0


@pytest.fixture
def ends() -> Iterator[_Ends]:
    client, server = socket.socketpair()
    with client, server:
        client.settimeout(10)
        found = _Ends(client)

        def interrupt() -> None:
            found.interrupts += 1

        found.packets = Packets(server, interrupt)
        yield found


def test_framing_has_the_checksum_of_the_document() -> None:
    assert framed(b"OK") == b"$OK#9a"
    assert framed(b"") == b"$#00"


@pytest.mark.parametrize("data", [b"", b"g", b"}#$*", bytes(range(256)), b"}}]"])
def test_all_bytes_come_through(data: bytes) -> None:
    inner = framed(data)[1:-3]
    assert unescaped(inner) == data
    assert not set(inner) & set(b"#$*")


def test_a_packet_is_acknowledged_and_one_with_a_wrong_sum_wanted_again(ends: _Ends) -> None:
    ends.client.sendall(b"+$g#00$g#zz$g#67")
    assert ends.packets.next() == b"g"
    assert ends.client.recv(10) == b"--+"


def test_what_was_not_received_is_sent_again(ends: _Ends) -> None:
    ends.packets.send(b"OK")
    ends.client.sendall(b"-+$?#3f")
    assert ends.packets.next() == b"?"
    received = b""
    while len(received) < 13:
        received += ends.client.recv(100)
    assert sorted((received.count(b"$OK#9a"), received.count(b"+"))) == [1, 2]
    assert received.count(b"$OK#9a") == 2


def test_nothing_is_acknowledged_any_more(ends: _Ends) -> None:
    ends.packets.acknowledging = False
    ends.client.sendall(b"$g#00$g#67")
    assert ends.packets.next() == b"g"
    ends.packets.send(b"x")
    assert ends.client.recv(10) == b"$x#78"


def test_an_interrupt_is_told_at_once_and_in_its_place(ends: _Ends) -> None:
    ends.client.sendall(b"$c#63\x03")
    assert ends.packets.next() == b"c"
    assert isinstance(ends.packets.next(), Interrupted)
    assert ends.interrupts == 1


def test_a_packet_without_end_is_given_up(ends: _Ends) -> None:
    ends.client.sendall(b"$" + b"m" * (MAX_PACKET_BYTES + 10) + b"$g#67")
    assert ends.packets.next() == b"g"


def test_a_client_that_is_gone_interrupts_and_ends(ends: _Ends) -> None:
    ends.client.sendall(b"$g#67$m0")
    ends.client.close()
    assert ends.packets.next() == b"g"
    assert ends.packets.next() is None
    assert ends.packets.next() is None
    assert ends.interrupts == 1
    with pytest.raises(ClientGone):
        ends.packets.send(b"OK")
