"""Values that belong to an object of the kernel, timers, dynptrs.

Prototypes only: what programs of the kinds that have these helpers pass and get. The facts are
those of linux/bpf.h and of what a kernel (6.18) answers; tests compare both.
"""

from __future__ import annotations

from pybpfvm.helpers.proto import ArgType, Helper, RetType

_CTX = ArgType.PTR_TO_CTX
_ANY = ArgType.ANYTHING
_MEM = ArgType.PTR_TO_MEM
_OUT = ArgType.PTR_TO_UNINIT_MEM
_SIZE_OR_ZERO = ArgType.CONST_SIZE_OR_ZERO
_MAP = ArgType.CONST_MAP_PTR
_VALUE_OR_NULL = ArgType.PTR_TO_MAP_VALUE_OR_NULL
_SOCK = ArgType.PTR_TO_BTF_ID_SOCK_COMMON
_BTF_OR_NULL = ArgType.PTR_TO_BTF_ID_OR_NULL
_FUNC = ArgType.PTR_TO_FUNC
_STACK_OR_NULL = ArgType.PTR_TO_STACK_OR_NULL
_TIMER = ArgType.PTR_TO_TIMER
_DYNPTR = ArgType.PTR_TO_DYNPTR
_KPTR = ArgType.PTR_TO_KPTR
_ALLOC_SIZE = ArgType.CONST_ALLOC_SIZE_OR_ZERO

ROWS = (
    Helper(
        "sk_storage_get",
        (_MAP, _SOCK, _VALUE_OR_NULL, _ANY),
        RetType.PTR_TO_MAP_VALUE_OR_NULL,
        None,
        "A socket's own value of a map.",
        args_by_type={"cgroup_sock": (_MAP, _CTX, _VALUE_OR_NULL, _ANY)},
    ),
    Helper(
        "sk_storage_delete", (_MAP, _SOCK), RetType.INTEGER, None, "Delete a socket's own value."
    ),
    Helper(
        "get_local_storage",
        (_MAP, _ANY),
        RetType.PTR_TO_MAP_VALUE,
        None,
        "The control group's own value of a map.",
    ),
    Helper(
        "task_storage_get",
        (_MAP, _BTF_OR_NULL, _VALUE_OR_NULL, _ANY),
        RetType.PTR_TO_MAP_VALUE_OR_NULL,
        None,
        "A task's own value of a map.",
    ),
    Helper(
        "inode_storage_get",
        (_MAP, _BTF_OR_NULL, _VALUE_OR_NULL, _ANY),
        RetType.PTR_TO_MAP_VALUE_OR_NULL,
        None,
        "An inode's own value of a map.",
    ),
    Helper(
        "cgrp_storage_get",
        (_MAP, _BTF_OR_NULL, _VALUE_OR_NULL, _ANY),
        RetType.PTR_TO_MAP_VALUE_OR_NULL,
        None,
        "A control group's own value of a map.",
    ),
    Helper(
        "task_storage_delete",
        (_MAP, _BTF_OR_NULL),
        RetType.INTEGER,
        None,
        "Delete a task's own value.",
    ),
    Helper(
        "inode_storage_delete",
        (_MAP, _BTF_OR_NULL),
        RetType.INTEGER,
        None,
        "Delete an inode's own value.",
    ),
    Helper(
        "cgrp_storage_delete",
        (_MAP, _BTF_OR_NULL),
        RetType.INTEGER,
        None,
        "Delete a control group's own value.",
    ),
    Helper(
        "timer_init",
        (_TIMER, _MAP, _ANY),
        RetType.INTEGER,
        None,
        "Prepare a timer of a map value.",
        gpl_only=True,
    ),
    Helper(
        "timer_set_callback",
        (_TIMER, _FUNC),
        RetType.INTEGER,
        None,
        "What a timer calls.",
        gpl_only=True,
    ),
    Helper(
        "timer_start", (_TIMER, _ANY, _ANY), RetType.INTEGER, None, "Set a timer.", gpl_only=True
    ),
    Helper("timer_cancel", (_TIMER,), RetType.INTEGER, None, "Stop a timer.", gpl_only=True),
    Helper(
        "kptr_xchg",
        (_KPTR, _BTF_OR_NULL),
        RetType.PTR_TO_BTF_ID_OR_NULL,
        None,
        "Swap the kernel pointer of a map value.",
    ),
    Helper(
        "dynptr_from_mem",
        (_OUT, _SIZE_OR_ZERO, _ANY, _DYNPTR),
        RetType.INTEGER,
        None,
        "A dynptr to memory.",
    ),
    Helper(
        "ringbuf_reserve_dynptr",
        (_MAP, _ANY, _ANY, _DYNPTR),
        RetType.INTEGER,
        None,
        "Reserve a record of any size.",
    ),
    Helper("ringbuf_submit_dynptr", (_DYNPTR, _ANY), RetType.VOID, None, "Commit a record."),
    Helper("ringbuf_discard_dynptr", (_DYNPTR, _ANY), RetType.VOID, None, "Give a record up."),
    Helper(
        "dynptr_read",
        (_OUT, _SIZE_OR_ZERO, _DYNPTR, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "Copy from a dynptr.",
    ),
    Helper(
        "dynptr_write",
        (_DYNPTR, _ANY, _MEM, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "Copy to a dynptr.",
    ),
    Helper(
        "dynptr_data",
        (_DYNPTR, _ANY, _ALLOC_SIZE),
        RetType.PTR_TO_DYNPTR_MEM_OR_NULL,
        None,
        "The memory behind a dynptr.",
    ),
    Helper(
        "user_ringbuf_drain",
        (_MAP, _FUNC, _STACK_OR_NULL, _ANY),
        RetType.INTEGER,
        None,
        "Call a function for each record of a user.",
    ),
    Helper("ktime_get_tai_ns", (), RetType.INTEGER, None, "International atomic time, ns."),
)
