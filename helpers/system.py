"""Where the program runs: CPU, node, task, random numbers, per-CPU kernel variables."""

from __future__ import annotations

from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Gate, Helper, RetType

# Offset in the program's window at which the task "lives": below every region, so that the
# pointer is not NULL, is the same in each run, and can not be read.
_TASK_OFFSET = 0x1000


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


ROWS = (
    Helper("get_prandom_u32", (), RetType.INTEGER, get_prandom_u32, "A pseudo-random u32."),
    Helper("get_smp_processor_id", (), RetType.INTEGER, get_smp_processor_id, "The CPU's number."),
    Helper("get_numa_node_id", (), RetType.INTEGER, get_numa_node_id, "The CPU's memory node."),
    Helper(
        "get_current_task",
        (),
        RetType.INTEGER,
        get_current_task,
        "The current task's address, as a number.",
        gate=Gate.CAP_PERFMON,
    ),
    Helper(
        "per_cpu_ptr",
        (ArgType.PTR_TO_PERCPU_BTF_ID, ArgType.ANYTHING),
        RetType.PTR_TO_MEM_OR_BTF_ID_OR_NULL,
        None,
        "A kernel variable on a CPU: there are no kernel variables here.",
        gate=Gate.CAP_BPF,
    ),
    Helper(
        "this_cpu_ptr",
        (ArgType.PTR_TO_PERCPU_BTF_ID,),
        RetType.PTR_TO_MEM_OR_BTF_ID,
        None,
        "A kernel variable on this CPU: there are no kernel variables here.",
        gate=Gate.CAP_BPF,
    ),
)
