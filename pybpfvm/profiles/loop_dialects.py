"""What was proposed before and after the merged ABI, as experimental profiles.

abi/iouring-bpf-upstream, sections 7 (earlier forms), 8 (IORING_OP_BPF) and 9.2 (wait timeouts, poll
gate, the XOR of a registered buffer). They are judged and run by the same code as the merged ones.
What was never written down is read as docs/abi-upstream.md says, or is unsupported.
"""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.profiles.base import (
    LoopAnswer,
    LoopPlace,
    LoopRules,
    LoopTimeout,
    OperationRules,
    Profile,
    Region,
    SectionRule,
    Sleepable,
)
from pybpfvm.profiles.loop_upstream import (
    BEFORE_715,
    LOOP_PROFILES,
    MERGED_KFUNCS,
    RULES_71,
    RULES_72,
    loop_profile,
)
from pybpfvm.profiles.upstream_types import CTX_BYTES

_STATE = "iou_loop_state"

# Late 2024, the prototype: section 7.
_RULES_2024 = LoopRules(
    ops="",
    callback="",
    ctx="io_uring_bpf_ctx",
    params="",
    params_fields=(),
    params_bytes=0,
    writable=(),
    regions={},
    members=(),
    own="",
    place=LoopPlace.WAITING,
    other=LoopAnswer.UNTOLD,
    deferred=False,
)
_KFUNCS_2024 = (
    "bpf_io_uring_submit_sqes",
    "bpf_io_uring_queue_sqe",
    "bpf_io_uring_get_cqe",
    "bpf_io_uring_get_cqe2",
    "bpf_io_uring_set_wait_params",
)
# June 2025, the second posting: section 7.
_RULES_JUNE = LoopRules(
    ops="io_uring_ops",
    callback="handle_events",
    ctx="io_ring_ctx",
    params=_STATE,
    params_fields=(("target_cq_tail", "unsigned int", 0), ("timeout", "long long", 8)),
    params_bytes=16,
    writable=((_STATE, 0, 4), (_STATE, 8, 16)),
    regions={},
    members=(("ring_fd", "unsigned int", 0), ("handle_events", "step()", 8), ("ctx", " *", 16)),
    own="ctx",
    place=LoopPlace.WAITING,
    other=LoopAnswer.STOPS,
    untold=(("timeout", 8, 8),),
    ctx_bytes=CTX_BYTES,
)
_JUNE_KFUNCS = (
    "bpf_io_uring_submit_sqes",
    "bpf_io_uring_queue_sqe",
    "bpf_io_uring_post_cqe",
    "bpf_io_uring_get_cqe",
    "bpf_io_uring_extract_next_cqe",
)
# November 2025, the third posting: section 7.
_RULES_NOVEMBER = replace(
    _RULES_JUNE,
    callback="loop",
    params_fields=(("cq_tail", "unsigned int", 0), ("timeout", "long long", 8)),
    regions={0: Region.CQ, 1: Region.SQ, 2: Region.MEM},
    members=(("loop", "step()", 0), ("ring_fd", "unsigned int", 8), ("priv", " *", 16)),
    own="priv",
    other=LoopAnswer.GOES_ON,
    deferred=False,
)
# June 2026, waits with a timeout: section 9.2.
_PARAMS = "iou_loop_params"
_RULES_TIMEOUT = replace(
    RULES_72,
    params_fields=(
        ("cq_wait_idx", "unsigned int", 0),
        ("flags", "unsigned int", 4),
        ("timeout_ns", "unsigned long long", 8),
    ),
    params_bytes=16,
    writable=((_PARAMS, 0, 4), (_PARAMS, 4, 8), (_PARAMS, 8, 16)),
    timeout=LoopTimeout(flags_at=4, ns_at=8),
)


# May 2026, a private branch: section 9.2.
_RULES_GATE = replace(
    RULES_72,
    members=(*RULES_72.members, ("poll_gate", "gate()", 24)),
    gate="poll_gate",
)


_KFUNC_ROWS_2024 = {"bpf_io_uring_get_cqe": "io_uring_copy_cqe"}
PROTOTYPE_2024 = replace(
    loop_profile(
        "iouring-2024",
        "the prototype of 2024, a program type of its own",
        _RULES_2024,
        _KFUNCS_2024,
        experimental=True,
    ),
    prog_type=0,  # it never got a number
    family="",
    sections=(SectionRule("iouring", sleepable=True),),
    ctx_name="io_uring_bpf_ctx",
    ctx_bytes=0,
    kfunc_rows=_KFUNC_ROWS_2024,
)
POLL_GATE = loop_profile(
    "loop-poll-gate",
    "io_uring_bpf_ops with a poll_gate, a private branch of May 2026",
    _RULES_GATE,
    (*MERGED_KFUNCS, "bpf_io_uring_sock_state", "bpf_io_uring_sock_peek"),
    experimental=True,
)
# February 2026, beside examples that were not meant to be merged: sections 5.4 and 9.2.
XOR_DEMO = loop_profile(
    "loop-xor",
    "io_uring_bpf_ops with bpf_io_uring_xor_regbuf, a demonstration of February 2026",
    RULES_71,
    (*MERGED_KFUNCS, "bpf_io_uring_xor_regbuf"),
    experimental=True,
)
# With a loop, by the date of their posting.
WITH_LOOP = (
    PROTOTYPE_2024,
    loop_profile(
        "loop-2025-06",
        "io_uring_ops.handle_events as posted in June 2025",
        _RULES_JUNE,
        _JUNE_KFUNCS,
        experimental=True,
    ),
    loop_profile(
        "loop-2025-11",
        "io_uring_ops.loop as posted in November 2025",
        _RULES_NOVEMBER,
        experimental=True,
    ),
    XOR_DEMO,
    *LOOP_PROFILES,
    loop_profile(
        "loop-timeout",
        "io_uring_bpf_ops.loop_step with timeouts, as proposed in June 2026",
        _RULES_TIMEOUT,
        experimental=True,
    ),
    POLL_GATE,
)
# 2025 and 2026, programs that are the operation of a request: section 8. The opcode's number is the
# first behind those of Linux 6.19, where the first version was proposed for the release after it.
_OPCODE = 65
_DATA, _DATA_BYTES = "uring_bpf_data", 64
_OPS_FIELDS = (
    ("prep", "prep()", 8),
    ("issue", "issue()", 16),
    ("fail", "end()", 24),
    ("cleanup", "end()", 32),
)


def _operation(ids: int, setup_flag: int, *, issue_flags: bool) -> OperationRules:
    """Where there are no `issue_flags` in a request's data, the program's part begins there."""
    own_at = 24 if issue_flags else 20
    shown = (("issue_flags", "unsigned int", 20),) if issue_flags else ()
    return OperationRules(
        opcode=_OPCODE,
        ids=ids,
        setup_flag=setup_flag,
        fields=(
            ("req_data", " *", 0),
            ("ops", " *", 8),
            ("opf", "unsigned int", 16),
            *shown,
            ("pdu", f"unsigned char[{_DATA_BYTES - own_at}]", own_at),
        ),
        own_at=own_at,
    )


def _operation_rules(
    operation: OperationRules, members: tuple[tuple[str, str, int], ...]
) -> LoopRules:
    return LoopRules(
        ops="uring_bpf_ops",
        callback="issue",
        ctx=_DATA,
        params="",
        params_fields=(),
        params_bytes=0,
        writable=((_DATA, operation.own_at, operation.data_bytes),),
        regions={},
        members=(*members, *_OPS_FIELDS),
        own="",
        operation=operation,
        place=LoopPlace.REQUEST,
        other=LoopAnswer.UNTOLD,
        deferred=False,
        stop=-22,
    )


_PER_RING = (("id", "unsigned short", 0), ("ring_fd", "int", 4))
_OP_BPF_V1 = _operation_rules(_operation(256, 0, issue_flags=False), (("id", "unsigned char", 0),))
_OP_BPF_V2 = _operation_rules(_operation(16, 1 << 20, issue_flags=True), _PER_RING)
_OP_BPF_V3 = _operation_rules(_operation(16, 1 << 21, issue_flags=True), _PER_RING)


def _op_bpf(name: str, posted: str, rules: LoopRules, *kfuncs: str) -> Profile:
    title = f"IORING_OP_BPF, uring_bpf_ops as posted in {posted}"
    made = loop_profile(name, title, rules, ("uring_bpf_set_result",), experimental=True)
    return replace(made, sleepable=Sleepable.NEVER, kfuncs=(*made.kfuncs, *kfuncs))


OP_BPF_V1 = _op_bpf("op-bpf-v1", "November 2025", _OP_BPF_V1)
OP_BPF_V2 = _op_bpf("op-bpf-v2", "January 2026", _OP_BPF_V2, "uring_bpf_memcpy")
OP_BPF_V3 = _op_bpf("op-bpf-v3", "March 2026", _OP_BPF_V3)
OP_BPF = (OP_BPF_V1, OP_BPF_V2, OP_BPF_V3)
DIALECTS = (*WITH_LOOP, *OP_BPF, BEFORE_715)
