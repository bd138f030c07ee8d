"""Clocks, CPU, task, random numbers."""

from __future__ import annotations

from tests.support.fake_context import FakeContext


def test_clocks() -> None:
    with FakeContext() as ctx:
        ctx.clock_ns = 10_000_000_123
        assert ctx.run("ktime_get_ns") == 10_000_000_123
        assert ctx.run("ktime_get_boot_ns") == 10_000_000_123
        assert ctx.run("ktime_get_coarse_ns") == 10_000_000_000
        assert ctx.run("jiffies64") == 2500
        ctx.clock_ns += 3_999_877
        assert ctx.run("jiffies64") == 2501
        assert ctx.run("ktime_get_coarse_ns") == 10_004_000_000


def test_surroundings() -> None:
    with FakeContext() as ctx:
        ctx.cpu = 3
        ctx.randoms = [5, (1 << 32) + 6]
        assert ctx.run("get_smp_processor_id") == 3
        assert ctx.run("get_numa_node_id") == 0
        assert [ctx.run("get_prandom_u32") for _ in range(2)] == [5, 6]
        assert ctx.run("get_current_task") == ctx.run("get_current_task") != 0
        assert ctx.memory.region_at(ctx.run("get_current_task")) is None
