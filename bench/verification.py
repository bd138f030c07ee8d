"""The verifier: its speed, next to the running kernel's on the same programs, one after the other.

A processed instruction is one that a path stepped over; both verifiers count them alike, and the
kernel says how many it needed and how long it took (log level 4). Times are CPU seconds, best of
interleaved rounds. "Python" is a loop that adds: how slow this machine is today shows there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from statistics import median

from pybpfvm import bpfsys
from pybpfvm.fuzz.typed_programs import MAPS, generate
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.loader import load
from pybpfvm.profiles import profile_named
from pybpfvm.profiles.base import Profile, Sleepable
from pybpfvm.profiles.ordinary import profile_of_section
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judging import JudgeRequest, judge
from pybpfvm.session.kernel_object import KernelObject
from pybpfvm.verifier.verdict import Accepted, Rejected
from pybpfvm.verifier.verify import Options, verify

Row = tuple[str, float, str]

_ROUNDS = 3
_GENERATED = 150
_REFUSED = 60
PROGRAMS = Path(__file__).parent / "programs"
# Programs that drive a ring from inside io_uring_enter; no kernel here judges them.
# But for a loop of 10^7 turns, for the debugger, which no verifier follows to its end.
COMPILED = sorted(one for one in PROGRAMS.glob("*.bpf.o") if one.name != "longrun.bpf.o")
LOOPS = sorted(Path(__file__).parents[1].glob("examples/loop_*/prog.bpf.o"))
_RING_ABI = "iouring-v3"
_LOOP_ABI = "loop-7.2"
_PYTHON_TURNS = 1_000_000
_LOOPS = (10, 100, 1_000, 10_000, 100_000)
_DIAMONDS = (4, 8, 12, 16, 20)
_COUNT = re.compile(r"processed (\d+) insns")
_TIME = re.compile(r"verification time (\d+) usec")
_COPIES = 4
_ENOUGH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One program: instructions processed and CPU seconds, ours and the kernel's (0: not asked)."""

    name: str
    insns: int
    seconds: float
    kernel_insns: int = 0
    kernel_seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Thousand instructions processed in a second."""
        return self.insns / self.seconds / 1e3

    @property
    def work(self) -> float:
        """Instructions processed as a multiple of the kernel's, 0 if it was not asked."""
        return self.insns / self.kernel_insns if self.kernel_insns else 0.0

    @property
    def times(self) -> float:
        """Time as a multiple of the kernel's, 0 if it was not asked."""
        return self.seconds / self.kernel_seconds if self.kernel_seconds else 0.0


def run() -> list[Row]:
    """Thousands of processed instructions a second, work and time as multiples of the kernel's."""
    refused = bpfsys.available()
    if refused is not None:
        print(f"the kernel's side is skipped: {refused}")
    kernel = refused is None
    compiled = [figures for path in COMPILED for figures in measured(path, kernel)]
    made = _generated(kernel)
    rows: list[Row] = [("Python, additions", _python(), "M/s")]
    for one in compiled:
        rows.append((f"{one.name}, {_size(one.insns)} processed", one.speed, "k insns/s"))
    loops = [figures for path in LOOPS for figures in measured(path, kernel=False)]
    rows += [
        (f"{one.name}, {_size(one.insns)} processed", one.seconds * 1e3, "ms") for one in loops
    ]
    rows.append(
        (f"{len(loops)} programs with a loop", sum(one.seconds for one in loops) * 1e3, "ms")
    )
    rows += _against("compiled", compiled) + _against(f"{_GENERATED} generated", made)
    rows += _scaling("loop", _LOOPS, _loop, kernel) + _scaling(
        "diamonds", _DIAMONDS, _diamond, kernel
    )
    rows.append(("peak memory, loop of 100,000 turns", _memory_mib(), "MiB"))
    rows += _refused() + _processes()
    return rows


def _against(what: str, figures: list[Figures]) -> list[Row]:
    rows: list[Row] = [(f"{what}: median speed", median(one.speed for one in figures), "k insns/s")]
    known = [one for one in figures if one.kernel_insns]
    if known:
        work = [one.work for one in known]
        rows += [
            (f"{what}: processed, ours / kernel, median", median(work), "x"),
            (f"{what}: processed, ours / kernel, most", max(work), "x"),
            (
                f"{what}: time, ours / kernel, whole",
                sum(one.seconds for one in known) / sum(one.kernel_seconds for one in known),
                "x",
            ),
        ]
    return rows


def measured(path: Path, kernel: bool) -> list[Figures]:
    """Each program of an object, judged by us and, if asked and able, the running kernel."""
    obj = load(path)
    profiles = [_profile(program.section) for program in obj.programs]
    found = []
    held = KernelObject(obj) if kernel and not any(map(_of_rings, profiles)) else None
    for program, profile in zip(obj.programs, profiles, strict=True):
        of = path.parent.name if path in LOOPS else path.name.partition(".")[0]
        name = f"{of}.{program.name}"
        found.append(_measured(name, program, obj, profile, held))
    if held is not None:
        held.close()
    return found


def _profile(section: str) -> Profile:
    ring = _LOOP_ABI if section.startswith("struct_ops") else _RING_ABI
    return profile_of_section(section) or profile_named(ring)


def _of_rings(profile: Profile) -> bool:
    return profile.ring is not None or profile.loop is not None


def _measured(
    name: str, program: Program, obj: BpfObject, profile: Profile, kernel: KernelObject | None
) -> Figures:
    ours, theirs, insns, kernel_insns = [], [], 0, 0
    for _ in range(_ROUNDS):
        start = time.process_time()
        verdict = verify(program, obj, profile)
        ours.append(time.process_time() - start)
        assert isinstance(verdict, Accepted), (name, verdict)
        insns = verdict.stats.processed_insns
        if kernel is not None:
            with kernel.load(program, profile, log_level=4) as loaded:
                assert loaded.accepted, (name, loaded.log)
                kernel_insns, seconds = _statistics(loaded.log)
            theirs.append(seconds)
        if sum(ours) > _ENOUGH_SECONDS:
            break
    return Figures(name, insns, min(ours), kernel_insns, min(theirs, default=0.0))


def _statistics(log: str) -> tuple[int, float]:
    count, usec = _COUNT.search(log), _TIME.search(log)
    assert count is not None, log
    assert usec is not None, log
    return int(count[1]), max(int(usec[1]), 1) / 1e6


def _generated(kernel: bool) -> list[Figures]:
    """Programs of the oracle's generator that both accept."""
    found: list[Figures] = []
    fds = [
        bpfsys.map_create(
            spec.type, spec.key_size, spec.value_size, spec.max_entries, flags=spec.flags
        )
        for spec in (MAPS if kernel else ())
    ]
    seed = 0
    while len(found) < _GENERATED:
        made = generate(seed)
        seed += 1
        start = time.process_time()
        verdict = verify(made.program, made.object, made.profile)
        seconds = time.process_time() - start
        if not isinstance(verdict, Accepted):
            continue
        insns = verdict.stats.processed_insns
        if not kernel:
            found.append(Figures(made.profile.name, insns, seconds))
            continue
        with bpfsys.prog_load(
            encode(made.program.insns),
            prog_type=made.profile.prog_type,
            flags=0 if made.profile.sleepable is Sleepable.NEVER else bpfsys.BPF_F_SLEEPABLE,
            map_fds=[fd.fileno() for fd in fds],
            log_level=4,
        ) as loaded:
            if loaded.accepted:
                found.append(Figures(made.profile.name, insns, seconds, *_statistics(loaded.log)))
    for fd in fds:
        fd.close()
    return found


def _refused() -> list[Row]:
    """Generated programs that are rejected: the verdict alone, and with the causes and witnesses
    that `pybpfvm verify` shows."""
    alone: list[float] = []
    whole: list[float] = []
    seed = 0
    while len(alone) < _REFUSED:
        made = generate(seed)
        seed += 1
        options = Options(all_errors=True)
        start = time.process_time()
        verdict = verify(made.program, made.object, made.profile, options=options)
        seconds = time.process_time() - start
        if not isinstance(verdict, Rejected):
            continue
        start = time.process_time()
        judge(made.program, made.object, made.profile, JudgeRequest())
        alone.append(seconds * 1e3)
        whole.append((time.process_time() - start) * 1e3)
    return [
        (f"{_REFUSED} rejected: verdict, median", median(alone), "ms"),
        (f"{_REFUSED} rejected: with cause and witness, median", median(whole), "ms"),
        (f"{_REFUSED} rejected: with cause and witness, most", max(whole), "ms"),
    ]


def _loop(turns: int) -> str:
    return (
        f"r6 = *(u32 *)(r1 + 0)\nr0 = 0\nr1 = 0\nr0 += r6\n*(u64 *)(r10 - 8) = r0\nr1 += 1\n"
        f"if r1 != {turns} goto -4\nr0 = 0\nexit"
    )


def _diamond(tests: int) -> str:
    """Each test adds a number or does not: 2**tests paths, which nothing but r0 tells apart."""
    text = "r6 = r1\nr7 = 0\n"
    for at in range(tests):
        text += f"r1 = *(u32 *)(r6 + {at % 4 * 4})\nif r1 > {at + 3} goto +1\nr7 += {at + 1}\n"
    return text + "r0 = r7\nexit"


def _scaling(what: str, sizes: tuple[int, ...], text_of: object, kernel: bool) -> list[Row]:
    assert callable(text_of)
    rows: list[Row] = []
    profile = profile_named("socket_filter")
    for size in sizes:
        program = Program("main", "socket", assemble(text_of(size)), license="GPL")
        obj = BpfObject("text", "", (program,), ())
        held = KernelObject(obj) if kernel else None
        one = _measured(what, program, obj, profile, held)
        rows.append((f"{what} {size:,}: processed", one.insns / 1e3, "k insns"))
        rows.append((f"{what} {size:,}: speed", one.speed, "k insns/s"))
        if held is not None:
            rows.append((f"{what} {size:,}: processed, ours / kernel", one.work, "x"))
            held.close()
    return rows


def _python() -> float:
    best = 0.0
    for _ in range(_ROUNDS):
        start, total = time.process_time(), 0
        for turn in range(_PYTHON_TURNS):
            total = (total + turn) & 0xFFFF_FFFF
        best = max(best, _PYTHON_TURNS / (time.process_time() - start) / 1e6)
    return best


_MEMORY = "from bench.verification import memory_of_a_loop; memory_of_a_loop()"


def _high_water_mib() -> float:
    """The most memory that this process had so far (what getrusage says includes its parent's)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None, status
    return int(found[1]) / 1024


def memory_of_a_loop() -> None:
    """Prints what the loop added to the memory of the process."""
    program = Program("main", "socket", assemble(_loop(_LOOPS[-1])), license="GPL")
    profile = profile_named("socket_filter")
    before = _high_water_mib()
    verify(program, BpfObject("text", "", (program,), ()), profile)
    print(_high_water_mib() - before)


def _memory_mib() -> float:
    """What verification added to the memory of a process."""
    done = subprocess.run([sys.executable, "-c", _MEMORY], check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def _processes() -> list[Row]:
    """Seconds of `verify` over some objects, by one process and by two."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for at in range(_COPIES):
            files.append(str(copy(PROGRAMS / "tracer.bpf.o", Path(folder) / f"{at}.bpf.o")))
        times: dict[str, list[float]] = {"1": [], "2": []}
        for _ in range(_ROUNDS):
            for jobs, taken in times.items():
                start = time.perf_counter()
                command = [sys.executable, "-m", "pybpfvm", "verify", "-j", jobs, *files]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                taken.append(time.perf_counter() - start)
    one, two = min(times["1"]), min(times["2"])
    return [
        (f"verify -j 1, {_COPIES} objects", one, "s"),
        (f"verify -j 2, {_COPIES} objects", two, "s"),
        ("-j 1 / -j 2", one / two, "x"),
    ]


def _size(insns: int) -> str:
    return f"{insns / 1e3:.0f} k" if insns >= 10_000 else str(insns)
