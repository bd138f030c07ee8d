"""Messages on a stream: whole, cut off, too long, none at all."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pybpfvm.debugger.dap.wire import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    BadMessage,
    BrokenStream,
    encoded,
    read_message,
)


def _framed(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    "message",
    [{}, {"seq": 1, "type": "request"}, {"text": "größer {} \u2028"}, {"deep": [[[{"a": None}]]]}],
)
def test_what_is_encoded_is_read(message: dict[str, Any]) -> None:
    stream = io.BytesIO(encoded(message) * 2)
    assert read_message(stream) == message
    assert read_message(stream) == message
    assert read_message(stream) is None


def test_text_that_is_no_unicode_is_sent_all_the_same() -> None:
    sent = encoded({"path": "a\udcff"})
    assert read_message(io.BytesIO(sent)) == {"path": "a\udcff"}
    sent.decode("ascii")


def test_other_fields_of_a_header_are_passed_over() -> None:
    body = b'{"seq":2}'
    header = b"Content-Type: x\r\ncontent-length:  %d \nMore: a:b\r\n\r\n" % len(body)
    assert read_message(io.BytesIO(header + body)) == {"seq": 2}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "no JSON object but list"),
        (b"1", "no JSON object but int"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' + b"9" * 10_000 + b"}", "not JSON"),
    ],
)
def test_the_message_behind_a_bad_one_is_read(body: bytes, reason: str) -> None:
    stream = io.BytesIO(_framed(body) + encoded({"seq": 5}))
    with pytest.raises(BadMessage, match=reason):
        read_message(stream)
    assert read_message(stream) == {"seq": 5}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Content-Length: 10\r\n\r\n{}", "ends after 2 of 10 bytes"),
        (b"Content-Length: 10\r\n", "ends in the header"),
        (b"Content-Length: 1", "header of a message is longer|ends in the header"),
        (b"GET / HTTP/1.1\r\n\r\n", "no field of a header"),
        (b"Host: here\r\n\r\n", "without Content-Length"),
        (b"Content-Length: -1\r\n\r\n", "no number of bytes"),
        (b"Content-Length: 1e9\r\n\r\n", "no number of bytes"),
        (b"Content-Length: \xb2\r\n\r\n", "no number of bytes"),
        (b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), "at most"),
        (b"Content-Length: " + b"9" * 300 + b"\r\n\r\n", "no number of bytes"),
        (b"X: " + b"a" * (1 << 20), "longer than"),
        (b"X: a\r\n" * MAX_HEADER_BYTES, "longer than"),
    ],
)
def test_where_the_next_message_begins_may_be_lost(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenStream, match=reason):
        read_message(io.BytesIO(data))


def test_the_length_is_that_of_the_bytes() -> None:
    header, _, body = encoded({"text": "ü"}).partition(b"\r\n\r\n")
    assert int(header.split(b":")[1]) == len(body) == len('{"text":"ü"}'.encode())
