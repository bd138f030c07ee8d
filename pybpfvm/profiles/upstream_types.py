"""The kernel's side of the merged ABI as BTF: what a 7.1 or 7.2 kernel's BTF has for ring programs.

Programs are judged and loaded against it on any machine. It holds the types of io_uring, the
dialect's kfuncs and the open-coded loop over numbers, and nothing else of a kernel; `--btf` gives a
whole one. Dialects with the same kfuncs give a function the same id, so that an object loaded for
one can be judged for the other. abi/iouring-bpf-upstream, sections 1.3, 3.1 to 3.3, 7; of
`io_ring_ctx` only the numbers that Linux 6.18 has, at its places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Func,
    FuncLinkage,
    FuncProto,
    Int,
    Member,
    Param,
    Ptr,
    Struct,
)

CTX_BYTES = 1472
_VALUE_DATA_AT = 64  # the value's common header fills a cache line

# (name, type, byte offset)
Fields = Sequence[tuple[str, str, int]]

CTX_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("flags", "unsigned int", 0),
    ("clockid", "int", 40),
    ("sq_thread_idle", "unsigned int", 52),
    ("cached_sq_head", "unsigned int", 112),
    ("sq_entries", "unsigned int", 116),
    ("cached_cq_tail", "unsigned int", 528),
    ("cq_entries", "unsigned int", 532),
)
_SQE_FIELDS: Fields = (
    ("opcode", "unsigned char", 0),
    ("flags", "unsigned char", 1),
    ("ioprio", "unsigned short", 2),
    ("fd", "int", 4),
    ("off", "unsigned long long", 8),
    ("addr2", "unsigned long long", 8),
    ("cmd_op", "unsigned int", 8),
    ("addr", "unsigned long long", 16),
    ("splice_off_in", "unsigned long long", 16),
    ("level", "unsigned int", 16),
    ("optname", "unsigned int", 20),
    ("len", "unsigned int", 24),
    ("rw_flags", "int", 28),
    ("fsync_flags", "unsigned int", 28),
    ("poll_events", "unsigned short", 28),
    ("poll32_events", "unsigned int", 28),
    ("sync_range_flags", "unsigned int", 28),
    ("msg_flags", "unsigned int", 28),
    ("timeout_flags", "unsigned int", 28),
    ("accept_flags", "unsigned int", 28),
    ("cancel_flags", "unsigned int", 28),
    ("open_flags", "unsigned int", 28),
    ("statx_flags", "unsigned int", 28),
    ("fadvise_advice", "unsigned int", 28),
    ("splice_flags", "unsigned int", 28),
    ("rename_flags", "unsigned int", 28),
    ("unlink_flags", "unsigned int", 28),
    ("hardlink_flags", "unsigned int", 28),
    ("xattr_flags", "unsigned int", 28),
    ("msg_ring_flags", "unsigned int", 28),
    ("uring_cmd_flags", "unsigned int", 28),
    ("waitid_flags", "unsigned int", 28),
    ("futex_flags", "unsigned int", 28),
    ("install_fd_flags", "unsigned int", 28),
    ("nop_flags", "unsigned int", 28),
    ("pipe_flags", "unsigned int", 28),
    ("user_data", "unsigned long long", 32),
    ("buf_index", "unsigned short", 40),
    ("buf_group", "unsigned short", 40),
    ("personality", "unsigned short", 42),
    ("splice_fd_in", "int", 44),
    ("file_index", "unsigned int", 44),
    ("zcrx_ifq_idx", "unsigned int", 44),
    ("optlen", "unsigned int", 44),
    ("addr_len", "unsigned short", 44),
    ("addr3", "unsigned long long", 48),
    ("attr_ptr", "unsigned long long", 48),
    ("optval", "unsigned long long", 48),
    ("attr_type_mask", "unsigned long long", 56),
)
_CQE_FIELDS: Fields = (
    ("user_data", "unsigned long long", 0),
    ("res", "int", 8),
    ("flags", "unsigned int", 12),
)


class _Types:
    """Types in the order of their making; ids count from 1."""

    def __init__(self) -> None:
        self._types: list[BtfType] = []
        self._ids: dict[str, int] = {}
        for name, size, signed in (
            ("unsigned char", 1, False),
            ("unsigned short", 2, False),
            ("unsigned int", 4, False),
            ("int", 4, True),
            ("long long", 8, True),
            ("unsigned long", 8, False),
            ("unsigned long long", 8, False),
        ):
            self._ids[name] = self.add(Int(name, size, size * 8, signed=signed))

    def add(self, type_: BtfType) -> int:
        self._types.append(type_)
        return len(self._types)

    def pointer(self, target: str) -> int:
        """A pointer to a struct or number by name; "" is void."""
        key = f"{target} *"
        if key not in self._ids:
            self._ids[key] = self.add(Ptr(self._ids[target] if target else 0))
        return self._ids[key]

    def struct(self, name: str, size: int, fields: Fields) -> None:
        """A struct; a type that ends in `*` is a pointer, in `()` a pointer to that function."""
        members = tuple(Member(field, self.of(kind), off * 8) for field, kind, off in fields)
        self._ids[name] = self.add(Struct(name, size, members))

    def of(self, kind: str) -> int:
        """The id of a type by its text."""
        if kind.endswith("]"):
            return self._array(kind)
        return self.pointer(kind.removesuffix(" *")) if kind.endswith(" *") else self._ids[kind]

    def _array(self, kind: str) -> int:
        if kind not in self._ids:
            element, _, count = kind.removesuffix("]").partition("[")
            made = Array(self.of(element), self._ids["unsigned int"], int(count))
            self._ids[kind] = self.add(made)
        return self._ids[kind]

    def prototype(self, result: str, params: Sequence[tuple[str, str]]) -> int:
        returned = self.of(result) if result else 0
        return self.add(
            FuncProto(returned, tuple(Param(name, self.of(kind)) for kind, name in params))
        )

    def function(self, name: str, result: str, params: Sequence[tuple[str, str]]) -> None:
        self.add(Func(name, self.prototype(result, params), FuncLinkage.STATIC))

    def callback(self, text: str, result: str, params: Sequence[tuple[str, str]]) -> None:
        """A pointer to a function, as a type called `text`."""
        self._ids[text] = self.add(Ptr(self.prototype(result, params)))

    def btf(self, where: str) -> Btf:
        return Btf.of(self._types, where=where)


_COUNTER = ("bpf_iter_num *", "it")
# Result and parameters of kfuncs, by rows of the table of helpers; _RING stands for the ring, or
# for what a request has for its programs.
_RING = ("", "")
_PARAMS = ("params", "")
_BUFFER = "uring_bpf_buf"  # this name is ours, too
_BUFFER_FIELDS: Fields = (
    ("type", "unsigned char", 0),
    ("resv", "unsigned char", 1),
    ("index", "unsigned short", 2),
    ("len", "unsigned int", 4),
    ("addr", "unsigned long long", 8),
)
_EVENT = ("io_poll_event *", "ev")  # the name is ours: no one compares it
_KFUNCS: Mapping[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "io_uring_submit_sqes": ("int", (_RING, ("unsigned int", "nr"))),
    "io_uring_get_region": (
        "unsigned char *",
        (_RING, ("unsigned int", "region_id"), ("unsigned long", "rdwr_buf_size")),
    ),
    "io_uring_queue_sqe": ("int", (_RING, (" *", "mem"), ("unsigned int", "mem__sz"))),
    "io_uring_post_cqe": (
        "int",
        (
            _RING,
            ("unsigned long long", "data"),
            ("unsigned int", "res"),
            ("unsigned int", "cflags"),
        ),
    ),
    "io_uring_get_cqe": ("io_uring_cqe *", (_RING, ("unsigned int", "idx"))),
    "io_uring_extract_next_cqe": ("io_uring_cqe *", (_RING,)),
    "io_uring_copy_cqe": ("int", (_RING, ("io_uring_cqe *", "cqe"))),
    "io_uring_get_cqe2": ("io_uring_cqe *", (_RING,)),
    "io_uring_set_wait_params": ("int", (_RING, ("unsigned int", "nr"))),
    "io_uring_sock_state": ("int", (_EVENT, (" *", "out"), ("unsigned int", "out__sz"))),
    "io_uring_sock_peek": ("int", (_EVENT, (" *", "buf"), ("unsigned int", "buf__sz"))),
    "io_uring_xor_regbuf": (
        "unsigned char",
        (_RING, ("unsigned int", "idx"), ("unsigned long", "size")),
    ),
    "uring_bpf_set_result": ("", (_RING, ("int", "res"))),
    "uring_bpf_memcpy": ("int", (_RING, (f"{_BUFFER} *", "dst"), (f"{_BUFFER} *", "src"))),
    "iter_num_new": ("int", (_COUNTER, ("int", "start"), ("int", "end"))),
    "iter_num_next": ("int *", (_COUNTER,)),
    "iter_num_destroy": ("", (_COUNTER,)),
}
# Result and parameters of callbacks, by the type of their member.
_CALLBACKS: Mapping[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "step()": ("int", (_RING, _PARAMS)),
    "gate()": ("int", (_EVENT,)),
    "prep()": ("int", (_RING, ("io_uring_sqe *", "sqe"))),
    "issue()": ("int", (_RING,)),
    "end()": ("", (_RING,)),
}


@lru_cache(maxsize=8)
def kernel_side(
    name: str,
    ctx: tuple[str, int, Fields],
    params: tuple[str, int, Fields],
    ops: tuple[str, Fields],
    kfuncs: tuple[tuple[str, str], ...],
) -> Btf:
    """The BTF of dialect `name`. `ctx` is what programs get first, `params` are the step's
    parameters (struct, size, fields), `ops` the struct of its callbacks (name, members), if they
    are in one; `kfuncs` are names, with the rows that tell their prototypes."""
    types = _Types()
    types.struct(*ctx)
    if params[0]:
        types.struct(*params)
    types.struct("io_uring_sqe", 64, _SQE_FIELDS)
    types.struct("io_uring_cqe", 16, _CQE_FIELDS)
    types.struct("io_uring", 8, (("head", "unsigned int", 0), ("tail", "unsigned int", 4)))
    if ops[0]:
        _add_callbacks(types, ctx[0], params[0], *ops)
    types.struct("bpf_iter_num", 8, (("__opaque", "unsigned long long", 0),))
    for kfunc, row in kfuncs:
        result, parameters = _KFUNCS[row]
        if any(kind == f"{_BUFFER} *" for kind, _ in parameters):
            types.struct(_BUFFER, 16, _BUFFER_FIELDS)
        own = ((f"{ctx[0]} *", "ctx") if one == _RING else one for one in parameters)
        types.function(kfunc, result, tuple(own))
    return types.btf(f"built-in types of {name}")


def _add_callbacks(types: _Types, ctx: str, params: str, ops: str, members: Fields) -> None:
    """The struct of callbacks, and what the kernel makes of it."""
    kinds = dict.fromkeys(kind for _, kind, _ in members if kind in _CALLBACKS)
    if "gate()" in kinds:
        types.struct("io_poll_event", 0, ())
    own = {_RING: (f"{ctx} *", "ctx"), _PARAMS: (f"{params} *", "lp")}
    for kind in kinds:
        result, parameters = _CALLBACKS[kind]
        types.callback(kind, result, tuple(own.get(one, one) for one in parameters))
    types.struct(ops, max(at for _, _, at in members) + 8, members)
    common = (("refcnt", "int", 0), ("state", "unsigned int", 4))
    types.struct("bpf_struct_ops_common", 8, common)
    types.struct(
        f"bpf_struct_ops_{ops}",
        128,
        (("common", "bpf_struct_ops_common", 0), ("data", ops, _VALUE_DATA_AT)),
    )
