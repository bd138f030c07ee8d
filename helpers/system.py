"""Where the program runs: CPU, node, task, random numbers, per-CPU kernel variables."""

from __future__ import annotations

from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType

# Offset in the program's window at which the task "lives": below every region, so that the
# pointer is not NULL, is the same in each run, and can not be read.
_TASK_OFFSET = 0x1000

_PID = 1
_COMM = b"pybpfvm"


def get_prandom_u32(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """The next number of the run's random source."""
    return ctx.random_u32() & 0xFFFF_FFFF


def get_smp_processor_id(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Number of the CPU."""
    return ctx.cpu


def get_numa_node_id(_ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """0: every machine here has one node."""
    return 0


def get_current_task(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """An address that stands for the task; probe_read_kernel of it fails with -EFAULT."""
    return ctx.memory.base + _TASK_OFFSET


def get_current_pid_tgid(_ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Thread and process 1, whoever runs us: results do not depend on it."""
    return _PID << 32 | _PID


def get_current_uid_gid(_ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """0: user and group root."""
    return 0


def get_current_comm(ctx: HelperContext, buf: int, size: int, _3: int, _4: int, _5: int) -> int:
    """0; "pybpfvm" in `buf`, cut to `size` with its NUL, and NULs up to `size`."""
    size &= 0xFFFF_FFFF
    name = _COMM[: max(size - 1, 0)]
    ctx.memory.check(buf, size, write=True)
    ctx.memory.program_write(buf, name + bytes(size - len(name)))
    return 0


ROWS = (
    Helper(
        "get_current_pid_tgid",
        (),
        RetType.INTEGER,
        get_current_pid_tgid,
        "Process (high half) and thread of the current task: 1 and 1.",
        steady=True,
    ),
    Helper(
        "get_current_uid_gid",
        (),
        RetType.INTEGER,
        get_current_uid_gid,
        "Group (high half) and user of the current task: 0 and 0.",
        steady=True,
    ),
    Helper(
        "get_current_comm",
        (ArgType.PTR_TO_UNINIT_MEM, ArgType.CONST_SIZE),
        RetType.INTEGER,
        get_current_comm,
        "Name of the current task: pybpfvm.",
    ),
    Helper("get_prandom_u32", (), RetType.INTEGER, get_prandom_u32, "A pseudo-random u32."),
    Helper(
        "get_smp_processor_id",
        (),
        RetType.INTEGER,
        get_smp_processor_id,
        "The CPU's number.",
        steady=True,
    ),
    Helper(
        "get_numa_node_id",
        (),
        RetType.INTEGER,
        get_numa_node_id,
        "The CPU's memory node.",
        steady=True,
    ),
    Helper(
        "get_current_task",
        (),
        RetType.INTEGER,
        get_current_task,
        "The current task's address, as a number.",
        gpl_only=True,
    ),
    Helper(
        "per_cpu_ptr",
        (ArgType.PTR_TO_PERCPU_BTF_ID, ArgType.ANYTHING),
        RetType.PTR_TO_MEM_OR_BTF_ID_OR_NULL,
        None,
        "A kernel variable on a CPU: there are no kernel variables here.",
    ),
    Helper(
        "this_cpu_ptr",
        (ArgType.PTR_TO_PERCPU_BTF_ID,),
        RetType.PTR_TO_MEM_OR_BTF_ID,
        None,
        "A kernel variable on this CPU: there are no kernel variables here.",
    ),
)
