"""The prototype's open questions, answered: an experimental ABI of our own. docs/abi-x.md.

Nobody proposed it: it is the third series with what the design notes leave open (iouring-bpf-2021,
sections 5.1 and 5.2). Its section names and helper numbers are no other ABI's, so that objects of
it are never taken for another's, nor others for its.
"""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.profiles.base import CtxField, CtxHolds, PacketAccess, SectionRule
from pybpfvm.profiles.iouring_2021 import V3

_MORE_FIELDS = (
    CtxField("data", 16, 8, writable=False, holds=CtxHolds.DATA),
    CtxField("data_end", 24, 8, writable=False, holds=CtxHolds.DATA_END),
    CtxField("user", 32, 8, writable=False, holds=CtxHolds.USER_BLOCK),
    CtxField("futex", 40, 8, writable=True),
    CtxField("futex_val", 48, 4, writable=True),
    CtxField("futex_res", 52, 4, writable=False, holds=CtxHolds.RESULT),
)
_CTX = (
    "io_uring_bpf_ctx",
    56,
    (
        ("user_data", 0, 8),
        ("wait_nr", 8, 4),
        ("wait_idx", 12, 4),
        ("data", 16, 8),
        ("data_end", 24, 8),
        ("user", 32, 8),
        ("futex", 40, 8),
        ("futex_val", 48, 4),
        ("futex_res", 52, -4),
    ),
)

assert V3.ring is not None
# A program that is called so would get the blocks that the ring checked for its caller.
_HELPERS = {number: name for number, name in V3.helpers.items() if name != "tail_call"}
X = replace(
    V3,
    name="iouring-x",
    title="BPF requests with what the prototype left open, an experiment of pybpfvm",
    prog_type=0,  # no kernel has one
    sections=(SectionRule("uring.x", sleepable=True),),
    ctx_bytes=56,
    ctx_fields=(*V3.ctx_fields, *_MORE_FIELDS),
    returns=(0, 2),
    ring=replace(V3.ring, contexts=True, futex_value=2, later_opcodes=True),
    helpers={**_HELPERS, 1001: "io_uring_requeue"},
    types=(*(one for one in V3.types if one[0] != "io_uring_bpf_ctx"), _CTX),
    packet_access=PacketAccess.FREE,
    experimental=True,
    notes=(),
)
