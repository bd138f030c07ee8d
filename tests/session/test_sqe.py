"""Each `prep_` method fills the bytes that linux/io_uring.h gives their meaning."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pybpfvm.errors import InputError
from pybpfvm.session.sqe import AT_FDCWD, SqeBuilder
from pybpfvm.uring_backend.abi import Op

# Offsets of the fields in the 64 bytes, and their struct codes.
FIELDS = {
    "flags": (1, "B"),
    "ioprio": (2, "H"),
    "fd": (4, "i"),
    "off": (8, "Q"),
    "addr": (16, "Q"),
    "len": (24, "I"),
    "op_flags": (28, "I"),
    "user_data": (32, "Q"),
    "buf_index": (40, "H"),
    "personality": (42, "H"),
    "cq_idx": (48, "H"),
}
Prep = Callable[[SqeBuilder], SqeBuilder]
_RW = {"fd": 5, "addr": 64, "len": 9, "off": 7}
_VEC = _RW | {"len": 2}
_MESSAGE = {"fd": 5, "addr": 64, "len": 9, "op_flags": 1}
_OPENAT = {"fd": AT_FDCWD, "addr": 64, "len": 0o600, "op_flags": 2}
_TIMEOUT = {"addr": 64, "len": 1, "off": 4, "op_flags": 1}
CASES: list[tuple[str, Prep, int, dict[str, int]]] = [
    ("nop", lambda s: s.prep_nop(), Op.NOP, {}),
    ("bpf", lambda s: s.prep_bpf(3), 77, {"off": 3}),
    ("operation", lambda s: s.prep_operation(3, 5), 65, {"op_flags": 3 << 24 | 5}),
    ("read", lambda s: s.prep_read(5, 64, 9, 7), Op.READ, _RW),
    ("write", lambda s: s.prep_write(5, 64, 9, 7), Op.WRITE, _RW),
    ("readv", lambda s: s.prep_readv(5, 64, 2, 7), Op.READV, _VEC),
    ("writev", lambda s: s.prep_writev(5, 64, 2, 7), Op.WRITEV, _VEC),
    ("fsync", lambda s: s.prep_fsync(5, True), Op.FSYNC, {"fd": 5, "op_flags": 1}),
    ("openat", lambda s: s.prep_openat(64, 2, 0o600), Op.OPENAT, _OPENAT),
    ("close", lambda s: s.prep_close(5), Op.CLOSE, {"fd": 5}),
    ("timeout", lambda s: s.prep_timeout(64, 4, 1), Op.TIMEOUT, _TIMEOUT),
    ("timeout_remove", lambda s: s.prep_timeout_remove(8), Op.TIMEOUT_REMOVE, {"addr": 8}),
    ("link_timeout", lambda s: s.prep_link_timeout(64), Op.LINK_TIMEOUT, {"addr": 64, "len": 1}),
    ("cancel", lambda s: s.prep_cancel(8, 1), Op.ASYNC_CANCEL, {"addr": 8, "op_flags": 1}),
    ("poll_add", lambda s: s.prep_poll_add(5, 1), Op.POLL_ADD, {"fd": 5, "op_flags": 1}),
    ("accept", lambda s: s.prep_accept(5), Op.ACCEPT, {"fd": 5}),
    ("connect", lambda s: s.prep_connect(5, 64), Op.CONNECT, {"fd": 5, "addr": 64, "off": 16}),
    ("send", lambda s: s.prep_send(5, 64, 9, 1), Op.SEND, _MESSAGE),
    ("recv", lambda s: s.prep_recv(5, 64, 9), Op.RECV, {"fd": 5, "addr": 64, "len": 9}),
]  # fmt: skip


def unpacked(raw: bytes) -> dict[str, int]:
    return {
        field: struct.unpack_from("<" + code, raw, at)[0] for field, (at, code) in FIELDS.items()
    }


def test_every_prep_method_has_a_case() -> None:
    methods = {name.removeprefix("prep_") for name in dir(SqeBuilder) if name.startswith("prep_")}
    assert methods == {name for name, *_ in CASES}


@pytest.mark.parametrize(("name", "prep", "opcode", "expected"), CASES, ids=[c[0] for c in CASES])
def test_prep(name: str, prep: Prep, opcode: int, expected: dict[str, int]) -> None:
    raw = prep(SqeBuilder(77, 65)).pack()
    assert len(raw) == 64
    assert raw[0] == opcode
    found = {
        field: struct.unpack_from("<" + code, raw, at)[0] for field, (at, code) in FIELDS.items()
    }
    zero = dict.fromkeys(FIELDS, 0) | {"fd": -1}
    assert found == zero | expected


def test_common_fields_go_with_every_method() -> None:
    raw = SqeBuilder(77).prep_nop(user_data=9, flags=4, cq_idx=2, personality=3, buf_index=1).pack()
    found = {
        field: struct.unpack_from("<" + code, raw, at)[0] for field, (at, code) in FIELDS.items()
    }
    assert found == dict.fromkeys(FIELDS, 0) | {
        "fd": -1, "user_data": 9, "flags": 4, "cq_idx": 2, "personality": 3, "buf_index": 1
    }  # fmt: skip


def test_a_queue_leaves_the_rest_of_addr3() -> None:
    both = SqeBuilder(77).set(addr3=0xFFFF_0007, cq_idx=2)
    assert both.sqe.addr3 == 0xFFFF_0002
    assert both.set(cq_idx=3).sqe.addr3 == 0xFFFF_0003


@pytest.mark.parametrize(
    ("field", "value", "bits"), [("len", 1 << 32, 32), ("user_data", -1, 64), ("flags", 256, 8)]
)
def test_what_does_not_fit_is_named(field: str, value: int, bits: int) -> None:
    with pytest.raises(InputError, match=f"^{field} {value} does not fit its {bits} bits"):
        SqeBuilder(77).prep_nop(**{field: value}).pack()


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InputError, match="no field 'lenght'"):
        SqeBuilder(77).prep_nop(lenght=1)
