"""Clocks. All of them read the run's one clock, which is virtual on the simulated ring."""

from __future__ import annotations

from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import Helper, RetType

TICK_NS = 4_000_000  # CONFIG_HZ=250, the usual value of distribution kernels


def ktime_get_ns(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Nanoseconds of the run's clock; also the boot-time clock, as nothing here suspends."""
    return ctx.now_ns()


def ktime_get_coarse_ns(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """The clock at the last tick."""
    return ctx.now_ns() // TICK_NS * TICK_NS


def jiffies64(ctx: HelperContext, _1: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Ticks since the clock's zero (a kernel's count starts five minutes before wrapping)."""
    return ctx.now_ns() // TICK_NS


ROWS = (
    Helper("ktime_get_ns", (), RetType.INTEGER, ktime_get_ns, "Monotonic clock, ns."),
    Helper("ktime_get_boot_ns", (), RetType.INTEGER, ktime_get_ns, "Boot-time clock, ns."),
    Helper(
        "ktime_get_coarse_ns",
        (),
        RetType.INTEGER,
        ktime_get_coarse_ns,
        "Monotonic clock at tick resolution, ns.",
    ),
    Helper("jiffies64", (), RetType.INTEGER, jiffies64, "Ticks of 4 ms."),
)
