"""docs/opcodes.md from the code: what each backend performs, and what is compared.

    python -m tests.support.opcode_table

"laws": some law of the contract submits the opcode, or calls for the command. "agreement": the
generator of request sequences makes it, so both backends are compared on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pybpfvm.fuzz.ring_families import ACTIONS_REGISTER, ALWAYS_REGISTERED
from pybpfvm.fuzz.ring_sequences import Generator
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import OP_LAST, SETUP_IOPOLL, Op, Register
from pybpfvm.uring_backend.contract import LAWS, check_law
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.kernel.guard import SUPPORTED
from pybpfvm.uring_backend.kernel.settings import KernelSettings
from pybpfvm.uring_backend.loop.ring import LoopRing
from pybpfvm.uring_backend.ring import Ring
from pybpfvm.uring_backend.sim import SimBackend
from pybpfvm.uring_backend.sim.opcodes import PREPARE
from pybpfvm.uring_backend.sim.settings import SimSettings

PAGE: Final = Path(__file__).parents[2] / "docs/opcodes.md"
_SEEDS: Final = range(1, 1001)  # the sequences that are looked through

# Commands and the method that plays each; where it is a backend's or its settings', both must have
# it.
METHODS: Final[dict[Register, str]] = {
    Register.FILES: "register_files",
    Register.FILES2: "register_files",
    Register.UNREGISTER_FILES: "unregister_files",
    Register.FILES_UPDATE: "update_files",
    Register.FILES_UPDATE2: "update_files",
    Register.BUFFERS: "register_buffers",
    Register.BUFFERS2: "register_buffers",
    Register.UNREGISTER_BUFFERS: "unregister_buffers",
    Register.BUFFERS_UPDATE: "update_buffers",
    Register.CLONE_BUFFERS: "clone_buffers",
    Register.SYNC_CANCEL: "sync_cancel",
    Register.FILE_ALLOC_RANGE: "file_alloc_range",
    Register.EVENTFD: "register_eventfd",
    Register.UNREGISTER_EVENTFD: "unregister_eventfd",
    Register.PERSONALITY: "register_personality",
    Register.UNREGISTER_PERSONALITY: "unregister_personality",
    Register.RESTRICTIONS: "register_restrictions",
    Register.ENABLE_RINGS: "enable",
    Register.RESIZE_RINGS: "resize",
    Register.MEM_REGION: "register_mem",
    Register.PBUF_RING: "register_buffer_ring",
    Register.UNREGISTER_PBUF_RING: "unregister_buffer_ring",
    Register.PBUF_STATUS: "buffer_ring_head",
    Register.PROBE: "probe",
    Register.QUERY: "query",
    Register.EVENTFD_ASYNC: "register_eventfd_async",
    Register.IOWQ_AFF: "register_iowq_aff",
    Register.UNREGISTER_IOWQ_AFF: "unregister_iowq_aff",
    Register.IOWQ_MAX_WORKERS: "iowq_max_workers",
    Register.RING_FDS: "register_ring_fd",
    Register.UNREGISTER_RING_FDS: "unregister_ring_fd",
    Register.CLOCK: "register_clock",
    Register.SEND_MSG_RING: "sync_message",
}
_COMMAND_NOTES: Final[dict[Register, str]] = {
    Register.EVENTFD_ASYNC: "by its law: what else goes to a worker is the kernel's choice",
    Register.RESTRICTIONS: "compared with the kernel's by `tests/session/test_settings.py`",
    Register.IOWQ_AFF: "sim: any processors, no effect",
    Register.IOWQ_MAX_WORKERS: "sim: no effect on the order of completions",
    Register.CLOCK: "sim: virtual time never stands still, so both clocks are one",
    Register.NAPI: "refused: polls the queue of a network card (Linux 6.18 takes it without one)",
    Register.UNREGISTER_NAPI: "refused, as NAPI",
    Register.ZCRX_IFQ: "refused: needs a receive queue of a network card",
}
# A backend, and its settings.
BACKENDS: Final = ((SimBackend, SimSettings), (KernelBackend, KernelSettings))
_NOTES: Final[dict[Op, str]] = {
    Op.RECV_ZC: "needs a receive queue of a network card",
    Op.MADVISE: "advice that changes no content",
    Op.SYMLINKAT: "kernel: with CAP_SYS_ADMIN",
    Op.WAITID: "kernel: one child; simulated: one or any",
    Op.FUTEX_WAIT: "without NUMA nodes",
    Op.FUTEX_WAKE: "without NUMA nodes",
}

_seen: set[int] = set()


class _Recorder(SimBackend):
    """Remembers which opcodes it was given."""

    def submit(self, sqes: Sequence[bytes]) -> int:
        _seen.update(raw[0] for raw in sqes)
        return super().submit(sqes)


def opcodes_of_laws() -> frozenset[int]:
    """Opcodes that laws submit."""
    _seen.clear()
    for law in LAWS:
        check_law(_recorder, law)
    return frozenset(_seen)


def _recorder(memory: AddressSpace, *, flags: int = 0) -> SimBackend:
    """A ring that polls remembers nothing: most opcodes are only refused there."""
    return (
        SimBackend(memory, flags=flags) if flags & SETUP_IOPOLL else _Recorder(memory, flags=flags)
    )


def generated() -> tuple[frozenset[int], frozenset[Register]]:
    """Opcodes and register commands in generated sequences."""
    opcodes: set[int] = set()
    commands: set[Register] = set(ALWAYS_REGISTERED)
    for seed in _SEEDS:
        for step in Generator(seed).sequence().steps:
            opcodes.update(spec.op for spec in step.specs)
            actions = [what for what, _ in step.host]
            commands.update(ACTIONS_REGISTER[what] for what in actions if what in ACTIONS_REGISTER)
    return frozenset(opcodes), frozenset(commands)


def has(kinds: Sequence[type], method: str) -> bool:
    """Whether one of these classes has it."""
    return any(hasattr(kind, method) for kind in kinds)


def page() -> str:
    """The text of docs/opcodes.md."""
    laws = opcodes_of_laws()
    opcodes, commands = generated()
    lines = [
        "# Opcodes and register commands",
        "",
        "Written by `python -m tests.support.opcode_table` from the code; a test compares.",
        "*laws*: one in `uring_backend/contract.py` or `uring_backend/laws/` is about it.",
        "*agreement*: generated sequences contain it; both backends must make the same of them",
        "(`tests/uring_backend/test_agreement.py`). What they make differently is in",
        "[sim-kernel-differences](sim-kernel-differences.md). What has no mark is refused by name.",
        "Rings of the 2021 ABIs take opcodes up to UNLINKAT (36); rings with a loop, those of",
        "iouring-x (but for MKDIRAT, whose number is that of BPF there) and users of the backends",
        "all of them.",
        "",
        "| opcode | sim | kernel | laws | agreement | |",
        "|---|---|---|---|---|---|",
    ]
    for op in Op:
        assert op < OP_LAST
        marks = [op in PREPARE, op in SUPPORTED, op in laws, op in opcodes]
        lines.append(f"| {op.name} | {_marks(marks)} | {_NOTES.get(op, '')} |")
    lines += [
        "",
        "*ring*: the ring above the backends plays it, once for both (MEM_REGION and RESIZE_RINGS:",
        "a ring whose loop is a program's).",
        "",
        "| register command | sim | kernel | ring | agreement | |",
        "|---|---|---|---|---|---|",
    ]
    for command in Register:
        method = METHODS.get(command, "")
        backends = [bool(method) and has(kinds, method) for kinds in BACKENDS]
        ring = bool(method) and any(hasattr(kind, method) for kind in (Ring, LoopRing))
        marks = [*backends, ring, command in commands]
        note = _COMMAND_NOTES.get(command, "")
        lines.append(f"| {command.name} | {_marks(marks)} | {note} |")
    return "\n".join(lines) + "\n"


def _marks(marks: Sequence[bool]) -> str:
    return " | ".join("✓" if mark else "" for mark in marks)


if __name__ == "__main__":
    PAGE.write_text(page())
