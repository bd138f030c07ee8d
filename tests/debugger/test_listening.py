"""A server for one client at a time."""

from __future__ import annotations

import socket
from threading import Event, Thread

import pytest

from pybpfvm.debugger.listening import listen, parse_address, serve_each
from pybpfvm.errors import InputError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("4711", ("127.0.0.1", 4711)),
        (":0", ("127.0.0.1", 0)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_an_address_is_on_loopback_unless_it_says_otherwise(
    text: str, address: tuple[str, int]
) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "1:65536", "1:-1", "1:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        parse_address(text)


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with listen(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        assert f"listening on 127.0.0.1:{port}\n" in capsys.readouterr().err
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: Address already in use"):
            listen(("127.0.0.1", port))


def test_clients_are_served_one_after_the_other_and_those_between_refused() -> None:
    served: list[bytes] = []
    serving = Event()

    def serve(client: socket.socket) -> None:
        serving.set()
        served.append(client.recv(10))
        if served[-1] == b"break":
            raise ConnectionResetError
        client.sendall(b"done")

    def refuse(client: socket.socket) -> None:
        client.sendall(b"busy")

    def asked(data: bytes) -> bytes:
        with socket.create_connection(address, 10) as client:
            client.sendall(data)
            return client.recv(10)

    listener = listen(("127.0.0.1", 0))
    address = listener.getsockname()
    Thread(target=serve_each, args=(listener, serve, refuse), daemon=True).start()
    with socket.create_connection(address, 10) as first:
        assert serving.wait(10)
        assert asked(b"second") == b"busy"
        first.sendall(b"first")
        assert first.recv(10) == b"done"
        assert first.recv(10) == b""
    serving.clear()
    assert asked(b"break") == b""
    assert asked(b"third") == b"done"
    assert served == [b"first", b"break", b"third"]
    listener.close()


def test_once_ends_after_the_first_client() -> None:
    listener = listen(("127.0.0.1", 0))
    thread = Thread(
        target=serve_each,
        args=(listener, lambda client: client.sendall(b"x"), lambda client: None),
        kwargs={"once": True},
        daemon=True,
    )
    thread.start()
    with socket.create_connection(listener.getsockname(), 10) as client:
        assert client.recv(1) == b"x"
    thread.join(10)
    assert not thread.is_alive()
