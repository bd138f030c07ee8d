"""Reading an SQE of a scenario: opcode by name, fields by the names of the C structure."""

from __future__ import annotations

import dataclasses

from pybpfvm.errors import InputError
from pybpfvm.scenario.content import number
from pybpfvm.scenario.model import Number, Ref, RefKind, SqeSpec
from pybpfvm.scenario.table import Table, TomlValue, nearest
from pybpfvm.uring_backend import abi

_OPS = {op.name.lower(): int(op) for op in abi.Op}
_FLAGS = {
    "fixed_file": abi.SQE_FIXED_FILE,
    "drain": abi.SQE_IO_DRAIN,
    "link": abi.SQE_IO_LINK,
    "hardlink": abi.SQE_IO_HARDLINK,
    "async": abi.SQE_ASYNC,
    "buffer_select": abi.SQE_BUFFER_SELECT,
    "cqe_skip_success": abi.SQE_CQE_SKIP_SUCCESS,
}
# Members of the SQE's unions -> the name that abi.Sqe gives the union.
_UNIONS = {
    "addr2": "off",
    "splice_off_in": "addr",
    "buf_group": "buf_index",
    "splice_fd_in": "file_index",
} | dict.fromkeys(
    (
        "rw_flags",
        "fsync_flags",
        "poll_events",
        "poll32_events",
        "msg_flags",
        "timeout_flags",
        "accept_flags",
        "cancel_flags",
        "open_flags",
        "statx_flags",
        "bpf_flags",
    ),
    "op_flags",
)
_PLAIN = [item.name for item in dataclasses.fields(abi.Sqe) if item.name not in ("opcode", "flags")]


def sqe_spec(table: Table) -> SqeSpec:
    """{ op = "read", fd = { fd = "in" }, addr = { block = "buf" }, len = 4096, cq = 1 }

    `prog = "name"` alone is a BPF request for that program; `op` may also be a number.
    """
    opcode = _opcode(table)
    fields: dict[str, Number] = {}
    program = table.text("prog")
    if program:
        if opcode is not None:
            raise InputError('prog belongs to op = "bpf"', where=table.where)
        fields["off"] = Ref(RefKind.PROG, program)
    flags = table.bits("flags", _FLAGS)
    if flags:
        fields["flags"] = flags
    cq_idx = table.integer("cq", 0, 0xFFFF) or 0
    for key in (*_PLAIN, *_UNIONS):
        if key not in table:
            continue
        name = _UNIONS.get(key, key)
        if name in fields:
            raise InputError(f"{key} sets {name} a second time", where=table.where)
        value = table.take(key)
        fields[name] = (
            Ref(RefKind.FD, value)
            if key == "fd" and isinstance(value, str)
            else number(value, table.at(key))
        )
    table.finish(also=(*_PLAIN, *_UNIONS))
    return SqeSpec(opcode, fields, cq_idx)


def _opcode(table: Table) -> int | None:
    op = table.take("op")
    if op is None and "prog" in table:
        return None
    if isinstance(op, int) and not isinstance(op, bool) and 0 <= op <= 255:
        return op
    if op == "bpf":
        return None
    if op is None:
        raise InputError("op is missing", where=table.where, remedy='op = "nop", "bpf", ...')
    if not isinstance(op, str) or op not in _OPS:
        known = [*_OPS, "bpf"]
        raise InputError(
            f"no opcode is called {op!r}", where=table.where, remedy=nearest(str(op), known)
        )
    return _OPS[op]


def opcode_named(op: TomlValue, where: str) -> int:
    """The number of an opcode by its name in scenarios, "nop"."""
    if not isinstance(op, str) or op not in _OPS:
        raise InputError(f"no opcode is called {op!r}", where=where, remedy=nearest(str(op), _OPS))
    return _OPS[op]
