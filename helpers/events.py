"""Tracing: memory of others, perf events, stacks, signals, objects of the kernel.

Prototypes only: what programs of the kinds that have these helpers pass and get. The facts are
those of linux/bpf.h and of what a kernel (6.18) answers; tests compare both.
"""

from __future__ import annotations

from pybpfvm.helpers.proto import ArgType, Helper, RetType

_CTX = ArgType.PTR_TO_CTX
_ANY = ArgType.ANYTHING
_MEM = ArgType.PTR_TO_MEM
_MEM_OR_NULL = ArgType.PTR_TO_MEM_OR_NULL
_OUT = ArgType.PTR_TO_UNINIT_MEM
_SIZE = ArgType.CONST_SIZE
_SIZE_OR_ZERO = ArgType.CONST_SIZE_OR_ZERO
_MAP = ArgType.CONST_MAP_PTR
_BTF = ArgType.PTR_TO_BTF_ID
_LONG = ArgType.PTR_TO_LONG
_FUNC = ArgType.PTR_TO_FUNC
_STACK_OR_NULL = ArgType.PTR_TO_STACK_OR_NULL

ROWS = (
    Helper(
        "probe_read",
        (_OUT, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "Copy from memory, of the kernel or of a user.",
        gpl_only=True,
    ),
    Helper(
        "probe_read_str",
        (_OUT, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "Copy a string from memory, of the kernel or of a user.",
        gpl_only=True,
        length=True,
    ),
    Helper(
        "probe_write_user",
        (_ANY, _MEM, _SIZE),
        RetType.INTEGER,
        None,
        "Write to memory of a user.",
        gpl_only=True,
    ),
    Helper(
        "perf_event_read", (_MAP, _ANY), RetType.INTEGER, None, "Read a counter.", gpl_only=True
    ),
    Helper(
        "perf_event_read_value",
        (_MAP, _ANY, _OUT, _SIZE),
        RetType.INTEGER,
        None,
        "Read a counter and its times.",
        gpl_only=True,
    ),
    Helper(
        "perf_prog_read_value",
        (_CTX, _OUT, _SIZE),
        RetType.INTEGER,
        None,
        "Read the counter that called the program.",
        gpl_only=True,
    ),
    Helper(
        "perf_event_output",
        (_CTX, _MAP, _ANY, _MEM, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "Write a record to a perf event.",
        gpl_only=True,
    ),
    Helper(
        "get_stackid",
        (_CTX, _MAP, _ANY),
        RetType.INTEGER,
        None,
        "The number of the current stack trace in a map.",
        gpl_only=True,
        free_for=frozenset({"perf_event"}),
    ),
    Helper(
        "get_stack",
        (_CTX, _OUT, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "The current stack trace.",
        gpl_only=True,
        length=True,
    ),
    Helper(
        "get_task_stack",
        (_BTF, _OUT, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "The stack trace of a task.",
        length=True,
    ),
    Helper(
        "override_return",
        (_CTX, _ANY),
        RetType.INTEGER,
        None,
        "Have the probed function return at once.",
        gpl_only=True,
    ),
    Helper(
        "read_branch_records",
        (_CTX, _MEM_OR_NULL, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "The last branches of the CPU.",
        gpl_only=True,
        writes=frozenset({2}),
    ),
    Helper(
        "get_branch_snapshot",
        (_OUT, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "The last branches of the CPU.",
        gpl_only=True,
    ),
    Helper(
        "skb_output",
        (_BTF, _MAP, _ANY, _MEM, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "Write a record and part of a packet to a perf event.",
        gpl_only=True,
    ),
    Helper(
        "xdp_output",
        (_BTF, _MAP, _ANY, _MEM, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "Write a record and part of a packet to a perf event.",
        gpl_only=True,
    ),
    Helper("send_signal", (_ANY,), RetType.INTEGER, None, "Send a signal to the current process."),
    Helper(
        "send_signal_thread", (_ANY,), RetType.INTEGER, None, "Send a signal to the current thread."
    ),
    Helper(
        "current_task_under_cgroup",
        (_MAP, _ANY),
        RetType.INTEGER,
        None,
        "Whether the current task is in a control group.",
    ),
    Helper(
        "get_current_cgroup_id", (), RetType.INTEGER, None, "The control group of the current task."
    ),
    Helper(
        "get_current_ancestor_cgroup_id",
        (_ANY,),
        RetType.INTEGER,
        None,
        "An ancestor of that control group.",
    ),
    Helper(
        "get_ns_current_pid_tgid",
        (_ANY, _ANY, _OUT, _SIZE),
        RetType.INTEGER,
        None,
        "Process and thread in a namespace.",
    ),
    Helper(
        "get_func_ip",
        (_CTX,),
        RetType.INTEGER,
        None,
        "The address of the probed function.",
        gpl_only=True,
        free_for=frozenset({"kprobe:42", "kprobe:48", "kprobe:56", "kprobe:57"}),
    ),
    Helper(
        "get_attach_cookie",
        (_CTX,),
        RetType.INTEGER,
        None,
        "The number that the program was attached with.",
    ),
    Helper(
        "get_func_arg",
        (_CTX, _ANY, _LONG),
        RetType.INTEGER,
        None,
        "An argument of the traced function.",
    ),
    Helper(
        "get_func_ret", (_CTX, _LONG), RetType.INTEGER, None, "What the traced function returned."
    ),
    Helper(
        "get_func_arg_cnt",
        (_CTX,),
        RetType.INTEGER,
        None,
        "How many arguments the traced function has.",
    ),
    Helper(
        "trace_vprintk",
        (_MEM, _SIZE, _MEM_OR_NULL, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "Print a line to the trace output.",
        gpl_only=True,
    ),
    Helper(
        "seq_printf",
        (_BTF, _MEM, _SIZE, _MEM_OR_NULL, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "Print a line to a file.",
        gpl_only=True,
    ),
    Helper(
        "seq_write",
        (_BTF, _MEM, _SIZE_OR_ZERO),
        RetType.INTEGER,
        None,
        "Write to a file.",
        gpl_only=True,
    ),
    Helper(
        "seq_printf_btf",
        (_BTF, _MEM, _SIZE_OR_ZERO, _ANY),
        RetType.INTEGER,
        None,
        "Print kernel data by its BTF type to a file.",
        gpl_only=True,
    ),
    Helper("d_path", (_BTF, _OUT, _SIZE_OR_ZERO), RetType.INTEGER, None, "The name of a path."),
    Helper(
        "find_vma",
        (_BTF, _ANY, _FUNC, _STACK_OR_NULL, _ANY),
        RetType.INTEGER,
        None,
        "Call a function with the area of an address.",
    ),
    Helper(
        "kallsyms_lookup_name",
        (_MEM, _SIZE_OR_ZERO, _ANY, _LONG),
        RetType.INTEGER,
        None,
        "The address of a kernel symbol.",
    ),
    Helper("sys_bpf", (_ANY, _MEM, _SIZE), RetType.INTEGER, None, "Call bpf(2)."),
    Helper(
        "btf_find_by_name_kind",
        (_MEM, _SIZE, _ANY, _ANY),
        RetType.INTEGER,
        None,
        "The id of a BTF type.",
    ),
    Helper("sys_close", (_ANY,), RetType.INTEGER, None, "Close a file descriptor."),
    Helper(
        "copy_from_user_task",
        (_OUT, _SIZE_OR_ZERO, _ANY, _BTF, _ANY),
        RetType.INTEGER,
        None,
        "Copy from memory of another process.",
        gpl_only=True,
        sleeps=True,
    ),
    Helper(
        "bprm_opts_set",
        (_BTF, _ANY),
        RetType.INTEGER,
        None,
        "Set options of a program that is being executed.",
    ),
    Helper(
        "ima_inode_hash",
        (_BTF, _OUT, _SIZE),
        RetType.INTEGER,
        None,
        "The measured hash of a file.",
        sleeps=True,
    ),
    Helper(
        "ima_file_hash",
        (_BTF, _OUT, _SIZE),
        RetType.INTEGER,
        None,
        "The hash of a file.",
        sleeps=True,
    ),
    Helper("sock_from_file", (_BTF,), RetType.PTR_TO_BTF_ID_OR_NULL, None, "The socket of a file."),
    Helper("get_retval", (), RetType.INTEGER, None, "What the system call is going to return."),
    Helper(
        "set_retval", (_ANY,), RetType.INTEGER, None, "Have the system call return something else."
    ),
)
