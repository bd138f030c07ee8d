"""Generated request sequences on the simulated ring and on the running kernel's: what differs.

A sequence is named by its kind and seed; `without` leaves steps out, so that it can be made
smaller.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import zip_longest

from pybpfvm.errors import errno_name
from pybpfvm.fuzz.network_sequences import Observation, Player, Step
from pybpfvm.fuzz.network_sequences import generate as generate_network
from pybpfvm.fuzz.ring_sequences import (
    BUFFER_BYTES,
    Generator,
    Outcome,
    Sequence,
    by_token,
    disorder,
    play_on,
)
from pybpfvm.fuzz.ring_specs import At, Spec
from pybpfvm.memory import AddressSpace
from pybpfvm.uring_backend.abi import Op
from pybpfvm.uring_backend.base import EXTERNAL
from pybpfvm.uring_backend.kernel import KernelBackend
from pybpfvm.uring_backend.lawbench import Bench
from pybpfvm.uring_backend.sim import SimBackend

Steps = Iterable[Step]


def compare(seed: int) -> list[str]:
    """What differs for one seed, in words; empty if nothing."""
    return compare_sequence(Generator(seed).sequence())


def compare_sequence(sequence: Sequence) -> list[str]:
    """What differs for a sequence, in words; empty if nothing."""
    seed = sequence.seed
    sim = play_on(sequence, lambda memory: SimBackend(memory, seed=seed), None)
    kernel = play_on(sequence, KernelBackend, sim.steps)
    return [
        *differing(sequence, sim, kernel),
        *(f"sim: {text}" for text in disorder(sequence, sim)),
        *(f"kernel: {text}" for text in disorder(sequence, kernel)),
    ]


def differing(sequence: Sequence, sim: Outcome, kernel: Outcome) -> list[str]:
    """What two outcomes of a sequence differ in, in words."""
    found = []
    if sim.consumed != kernel.consumed:
        found.append(f"consumed: sim {sim.consumed}, kernel {kernel.consumed}")
    ours, theirs = by_token(sequence, sim), by_token(sequence, kernel)
    for step in sequence.steps:
        for unit in step.units:
            for spec in unit.specs:
                one, two = ours.get(spec.token), theirs.get(spec.token)
                if one != two:
                    chain = " -> ".join(name(other) for other in unit.specs)
                    found.append(f"{name(spec)} of [{chain}]: sim {said(one)}, kernel {said(two)}")
    if sim.host != kernel.host:
        found.append(f"host: sim {sim.host}, kernel {kernel.host}")
    if sim.facts != kernel.facts:
        found.append(f"facts: sim {sim.facts}, kernel {kernel.facts}")
    if sim.memory != kernel.memory:
        pairs = zip(sim.memory, kernel.memory, strict=True)
        at = 64 + next(index for index, (one, two) in enumerate(pairs) if one != two)
        users = [name(s) for step in sequence.steps for s in step.specs if uses(s, at)]
        found.append(f"user memory differs from offset {at} on, used by {users}")
    for file, content in sim.files.items():
        if content != kernel.files[file]:
            found.append(f"file {file}: {sizes(content)} in sim, {sizes(kernel.files[file])}")
    return found


def uses(spec: Spec, offset: int) -> bool:
    """Whether a request's memory has the byte at this offset of the block."""
    addr = spec.fields.get("addr")
    return isinstance(addr, At) and addr.offset <= offset < addr.offset + BUFFER_BYTES * 10


def name(spec: Spec) -> str:
    """A request in words: its token, opcode and fields."""
    op = "EXTERNAL" if spec.op == EXTERNAL else Op(spec.op).name if spec.op < 63 else str(spec.op)
    fields = ", ".join(f"{key}={value}" for key, value in spec.fields.items() if value)
    return f"{spec.token}:{op}({fields}{', fails' if spec.fails else ''})"


def said(events: list[tuple[object, int]] | None) -> str:
    """The completions of a request, in words."""
    if events is None:
        return "nothing"
    return ", ".join(
        f"{'-' + errno_name(res) if isinstance(res, int) and res < 0 else res}"
        + (f"/{flags:#x}" if flags else "")
        for res, flags in events
    )


def sizes(content: bytes | None) -> str:
    """A file's content, in words."""
    return "missing" if content is None else f"{len(content)} bytes"


def compare_network(seed: int) -> list[str]:
    """What differs at the first step that does, in words; empty if nothing."""
    return compare_steps(seed, *generate_network(seed))


def compare_steps(seed: int, kind: str, steps: Steps) -> list[str]:
    """The same of these steps on sockets of the kind."""
    with ExitStack() as stack:
        memory = stack.enter_context(AddressSpace())
        sim = Player(
            Bench(stack.enter_context(SimBackend(memory, seed=seed)), memory, SimBackend), kind
        )
        memory = stack.enter_context(AddressSpace())
        kernel = Player(
            Bench(stack.enter_context(KernelBackend(memory)), memory, KernelBackend), kind
        )
        done = []
        for step in steps:
            done.append(str(step))
            one, events, flight = sim.play(step, None)
            two, _, their_flight = kernel.play(step, (events, flight))
            if one != two or flight != their_flight:
                return [kind, *done, *in_words(one, two), f"in flight: {flight} {their_flight}"]
    return []


def in_words(ours: Observation, theirs: Observation) -> list[str]:
    """What two observations of one step differ in."""
    names = ("host", "completions", "heads", "rings", "header", "memory")
    found = []
    for name, one, two in zip(names, ours, theirs, strict=True):
        if one == two:
            continue
        if isinstance(one, bytes) and isinstance(two, bytes):
            at = next(i for i, pair in enumerate(zip_longest(one, two)) if pair[0] != pair[1])
            found.append(
                f"{name} at {at}: sim {one[at : at + 24].hex()} kernel {two[at : at + 24].hex()}"
            )
        else:
            found.append(f"{name}: sim {one} kernel {two}")
    return found
