"""The fault handler among others, and engines among threads, children and interrupts.

What may end a process happens in a child of its own: `child` runs a script and gives its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import InputError, InternalError, Trap, TrapKind
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, Program

ROOT = Path(__file__).parents[2]

# What every child begins with: `fault` runs a program whose store no page allows, `crash` is a
# fault that is none of ours.
SETUP = """
import faulthandler, os, signal, sys, ctypes, threading
from pybpfvm.engine import RunEnvironment
from pybpfvm.helpers.table import HELPERS
from pybpfvm.jit.engine import JitEngine
from pybpfvm.jit.options import Checks
from tests.jit.test_faults import Bench
def fault(bench):
    assert bench.trap() == "NULL", bench.trap()
def crash():
    ctypes.string_at(8)
"""


def child(script: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Bench:
    """An engine with programs: one faults, one counts to the context's number, one never ends,
    one calls helper 1 and then faults."""

    def __init__(self, checks: Checks = Checks.PAGES) -> None:
        texts = {
            "bad": "r1 = 16\n*(u64 *)(r1 + 0) = 1\nexit",
            "good": "r2 = *(u32 *)(r1 + 0)\nr0 = 0\nr0 += 1\nif r0 < r2 goto -2\nexit",
            "endless": "r0 = 0\nr0 += 1\ngoto -2",
            "asks": "call 1\nr1 = 16\n*(u64 *)(r1 + 0) = 1\nexit",
        }
        programs = tuple(Program(name, "x", assemble(text)) for name, text in texts.items())
        self.image = Image(BpfObject("bench", "", programs, ()))
        memory = self.image.memory
        self.ctx = memory.alloc(8, RegionKind.CTX, "ctx")
        memory.write(self.ctx.start, (1000).to_bytes(8, "little"))
        self.engine = JitEngine(self.image, {}, RunEnvironment(), checks=checks)

    def run(self, name: str, budget: int = 1 << 24) -> int:
        """The result of a program."""
        program = self.image.programs[name]
        return self.engine.run(program, self.ctx.start, budget_insns=budget).r0

    def trap(self, name: str = "bad") -> str:
        """The kind of trap that a program ends in."""
        try:
            self.run(name)
        except Trap as trap:
            kind, addr = trap.kind, trap.addr
        else:
            return "none"
        assert kind is not TrapKind.NULL or addr == 16
        return kind.name

    def close(self) -> None:
        """Give everything back."""
        self.engine.close()
        self.image.close()


def test_faults_become_traps_again_and_again() -> None:
    bench = Bench()
    for _ in range(1000):
        assert bench.trap() == "NULL"
    assert bench.run("good") == 1000
    bench.close()


ORDERS = {
    "before": "faulthandler.enable()\nb = Bench()\nfault(b)",
    "after": "b = Bench()\nfault(b)\nfaulthandler.enable()\nfault(b)",
    "both": "faulthandler.enable()\nb = Bench()\nfault(b)\nfaulthandler.disable()\n"
    "fault(b)\nfaulthandler.enable()\nfault(b)",
    "toggled": "b = Bench()\nfor _ in range(5):\n"
    "    faulthandler.enable(); fault(b); faulthandler.disable(); fault(b)\n"
    "faulthandler.enable(); fault(b)",
    "no run since": "b = Bench()\nfault(b)\nfaulthandler.enable()",
}


@pytest.mark.parametrize("order", ORDERS)
def test_beside_faulthandler(order: str) -> None:
    script = f"{ORDERS[order]}\nprint('survived', flush=True)\ncrash()\nprint('not reached')"
    done = child(script)
    assert done.stdout == "survived\n", done.stderr
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.count("Fatal Python error: Segmentation fault") == 1, done.stderr
    assert "in crash" in done.stderr


def test_being_first_again_and_again_takes_no_more_pages() -> None:
    done = child("""
        from pybpfvm.jit.pages import code_area
        b = Bench()
        fault(b)
        ends = []
        for _ in range(20):
            faulthandler.enable(); fault(b); faulthandler.disable(); fault(b)
            ends.append(code_area()._next)
        print(len(set(ends[1:])), flush=True)
        crash()
    """)
    assert done.stdout == "1\n", done.stderr
    assert done.returncode == -signal.SIGSEGV


def test_a_crash_elsewhere_ends_the_process() -> None:
    done = child("b = Bench(); fault(b); print('survived', flush=True); crash()")
    assert (done.stdout, done.returncode) == ("survived\n", -signal.SIGSEGV)


def test_a_handler_from_before_is_called() -> None:
    """One written for the purpose, of machine code: it ends the process with status 77."""
    script = """
    from pybpfvm.jit.faults import _SIGACTION, _sigaction
    from pybpfvm.jit.pages import code_area
    from pybpfvm.jit import x86
    code = x86.mov_imm(x86.RDI, 77) + x86.mov_imm(x86.RAX, 231) + x86.SYSCALL
    place = code_area().place(code).start
    action = ctypes.create_string_buffer(_SIGACTION.pack(place, bytes(128), 4, 0))
    assert _sigaction(signal.SIGSEGV, action, None) == 0
    b = Bench()
    fault(b)
    print('survived', flush=True)
    crash()
    """
    done = child(script)
    assert (done.stdout, done.returncode) == ("survived\n", 77), done.stderr


def test_a_signal_from_outside_ends_the_process() -> None:
    done = child("b = Bench(); fault(b)\nwhile True: os.kill(os.getpid(), signal.SIGSEGV)")
    assert (done.stdout, done.returncode) == ("", -signal.SIGSEGV)


def test_threads_run_beside_programs() -> None:
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    bench = Bench(Checks.EXACT)
    before = ticks
    with pytest.raises(Trap, match="budget"):
        bench.run("endless", 1 << 30)
    during = ticks - before
    stop.set()
    thread.join()
    bench.close()
    assert during > 0, "no other thread ran during a billion instructions"


@pytest.mark.parametrize("checks", [Checks.EXACT, Checks.PAGES])
def test_engines_in_threads(checks: Checks) -> None:
    failed: list[object] = []

    def work() -> None:
        bench = Bench(checks)
        for _ in range(100):
            if bench.trap() != "NULL" or bench.run("good") != 1000:
                failed.append(bench)
        bench.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_two_threads_inside_helpers_at_once() -> None:
    """Each enters while the other is in a helper; none leaves before the other is there. Where
    faults go was once a matter of who came last, and engines keep their state in other places."""
    script = """
    barrier = threading.Barrier(2, timeout=30)
    said = []
    def work(number):
        bench = Bench()
        spare = [JitEngine(bench.image, {}, RunEnvironment()) for _ in range(number)]
        env = RunEnvironment(now_ns=lambda: barrier.wait() * 0)
        helpers = {1: HELPERS["ktime_get_ns"]}
        bench.engine = JitEngine(bench.image, helpers, env, checks=Checks.PAGES)
        for _ in range(50):
            said.append(bench.trap("asks"))
    threads = [threading.Thread(target=work, args=(n,)) for n in (0, 3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(said), set(said))
    """
    done = child(script)
    assert (done.stdout, done.returncode) == ("100 {'NULL'}\n", 0), done.stderr


def _asking(now_ns: Callable[[], int], checks: Checks = Checks.PAGES) -> Bench:
    """A bench whose helper 1 is the clock."""
    bench = Bench()
    environment = RunEnvironment(now_ns=now_ns)
    helpers = {1: HELPERS["ktime_get_ns"]}
    bench.engine = JitEngine(bench.image, helpers, environment, checks=checks)
    return bench


def test_engines_run_inside_helpers_of_others() -> None:
    inner = Bench()
    seen: list[str] = []

    def now_ns() -> int:
        seen.append(inner.trap())
        return inner.run("good")

    outer = _asking(now_ns)
    for _ in range(3):
        assert outer.trap("asks") == "NULL"
    assert seen == ["NULL"] * 3
    outer.close()
    inner.close()


@pytest.mark.parametrize("checks", [Checks.EXACT, Checks.PAGES])
def test_what_a_helper_raises_leaves_the_engine_well(checks: Checks) -> None:
    def now_ns() -> int:
        raise ValueError("no clock")

    bench = _asking(now_ns, checks)
    for _ in range(3):
        with pytest.raises(ValueError, match="no clock"):
            bench.run("asks")
        assert bench.trap() == "NULL"
        assert bench.run("good") == 1000
    bench.close()


def test_an_engine_does_not_run_twice_at_once() -> None:
    def now_ns() -> int:
        return bench.run("good")

    bench = _asking(now_ns)
    with pytest.raises(InternalError, match="one program at a time"):
        bench.run("asks")
    assert bench.run("good") == 1000
    bench.close()


def test_big_endian_objects_are_refused() -> None:
    program = Program("big", "x", assemble("r0 = 1\nexit"), big_endian=True)
    with (
        Image(BpfObject("big", "", (program,), (), big_endian=True)) as image,
        pytest.raises(InputError, match="big-endian"),
    ):
        JitEngine(image, {}, RunEnvironment())


def test_forked_children_compile_and_run() -> None:
    bench = Bench()
    assert bench.trap() == "NULL"
    pid = os.fork()
    if pid == 0:
        fine = False
        try:
            other = Bench()
            fine = other.trap() == "NULL" and other.run("good") == 1000 and bench.trap() == "NULL"
            bench.image.memory.write(bench.ctx.start, (5).to_bytes(8, "little"))
            fine = fine and bench.run("good") == 5
        finally:
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bench.run("good") == 1000
    assert bench.trap() == "NULL"
    bench.close()


def test_an_interrupt_arrives_in_a_long_run() -> None:
    bench = Bench(Checks.EXACT)
    begun = time.monotonic()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        bench.run("endless", 1 << 40)
    assert time.monotonic() - begun < 5
    assert bench.run("good") == 1000  # the engine is as good as before
    with pytest.raises(Trap, match="budget"):
        bench.run("endless", 100)
    bench.close()


def test_an_address_space_closes_with_its_engines() -> None:
    bench = Bench()
    assert bench.run("good") == 1000
    bench.image.memory.close()
    bench.engine.close()
    other = Bench()
    assert other.run("good") == 1000
    assert other.trap() == "NULL"
    other.close()
