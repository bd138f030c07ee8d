"""Every helper with every kind of wild argument: a Trap or a defined result, never more.

Programs are not checked before they run, in the interpreter and on both rings.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import product

import pytest

from pybpfvm.bits import s64
from pybpfvm.errors import Trap, TrapKind
from pybpfvm.helpers.proto import ArgType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.profiles import profile_named
from pybpfvm.session import Machine
from pybpfvm.session.hostring import BackendName
from tests.hostile.attack import ABI, MAPS, object_of, raw_desk
from tests.support.session_ring import SIM_AND_KERNEL, Desk

HELPER_NUMBERS = profile_named(ABI).helpers
KINDS = {
    TrapKind.OUT_OF_BOUNDS,
    TrapKind.READ_ONLY,
    TrapKind.USER_MEMORY,
    TrapKind.NULL,
    TrapKind.NOT_MEMORY,
    TrapKind.CTX_ACCESS,
    TrapKind.BAD_HELPER_ARG,
    TrapKind.BAD_HELPER,
    TrapKind.UNSUPPORTED,
    TrapKind.BAD_RETURN,
    TrapKind.BUDGET,
    TrapKind.STACK_DEPTH,
}

# What a register may hold; {r} is the register. r6 is the context, r7 a user address.
WILD = {
    "null": "{r} = 0",
    "one": "{r} = 1",
    "odd": "{r} = 0x1001",
    "page": "{r} = 0x1000",
    "kernel": "{r} = 0xffff888000000000 ll",
    "minus one": "{r} = -1",
    "2^63": "{r} = 0x8000000000000000 ll",
    "2^32": "{r} = 0x100000000 ll",
    "2^31": "{r} = 0x80000000 ll",
    "2^32-1": "{r} = 0xffffffff ll",
    "stack": "{r} = r10\n{r} += -64",
    "stack edge": "{r} = r10\n{r} += -4",
    "above the stack": "{r} = r10",
    "below the stack": "{r} = r10\n{r} += -520",
    "ctx": "{r} = r6",
    "inside ctx": "{r} = r6\n{r} += 8",
    "map": "{r} = map[array] ll",
    "beside a map": "{r} = map[array] ll\n{r} += 1",
    "ring buffer": "{r} = map[ringbuf] ll",
    "user": "{r} = r7",
    "before user": "{r} = r7\n{r} += -8",
    "end of user": "{r} = r7\n{r} += 4092",
    "small": "{r} = 8",
    "64": "{r} = 64",
}
POINTERS = ["null", "kernel", "stack", "stack edge", "above the stack", "ctx", "map", "user"]
SIZES = ["null", "small", "2^31", "2^32-1", "minus one", "2^63"]
_SIZE_TYPES = (
    ArgType.CONST_SIZE,
    ArgType.CONST_SIZE_OR_ZERO,
    ArgType.CONST_ALLOC_SIZE_OR_ZERO,
)

# A sensible value of each argument type, so that the others are looked at too.
SANE = {
    ArgType.CONST_MAP_PTR: "map",
    ArgType.PTR_TO_CTX: "ctx",
    ArgType.CONST_SIZE: "small",
    ArgType.CONST_SIZE_OR_ZERO: "small",
    ArgType.CONST_ALLOC_SIZE_OR_ZERO: "small",
    ArgType.ANYTHING: "null",
}


def call(number: int, arguments: tuple[str, ...]) -> str:
    """A program that calls the helper with these kinds of arguments and returns 0."""
    lines = ["r6 = r1", "r7 = *(u64 *)(r6 + 0)"]
    lines += [WILD[kind].format(r=f"r{at}") for at, kind in enumerate(arguments, 1)]
    return "\n".join([*lines, f"call {number}", "r0 = 0", "exit"])


def attacks(number: int) -> Iterator[tuple[str, ...]]:
    """Argument kinds: each position in turn goes through all, beside sane and like ones."""
    types = HELPERS[HELPER_NUMBERS[number]].args
    own = "ringbuf" in HELPER_NUMBERS[number]
    sane = tuple(
        "ring buffer" if kind is ArgType.CONST_MAP_PTR and own else SANE.get(kind, "stack")
        for kind in types
    )
    for at, kind in enumerate(types):
        for value in WILD:
            yield (*sane[:at], value, *sane[at + 1 :])
        if kind in _SIZE_TYPES:
            for near in (at - 1, at + 1):
                if 0 <= near < len(types) and types[near] not in _SIZE_TYPES:
                    for pointer, size in product(POINTERS, SIZES):
                        both = list(sane)
                        both[near], both[at] = pointer, size
                        yield tuple(both)
    for value in WILD:
        yield (value,) * max(len(types), 1)


def trap_of(action: Callable[[], object]) -> Trap | None:
    """The trap that ends `action`; anything else it raises is a failure."""
    try:
        action()
    except Trap as trap:
        return trap
    return None


def check(trap: Trap, program: str, text: str) -> None:
    assert trap.kind in KINDS, (text, trap)
    assert trap.program == program
    assert f"\n  at {program}+" in str(trap)


def submit_and_settle(desk: Desk, slot: int, user_data: int) -> None:
    desk.submit_bpf(slot, user_data)
    desk.ring.run_until_idle()


def test_every_helper_survives_every_argument() -> None:
    """Outside a ring, in one machine: nothing but Trap, and what it says is complete."""
    trapped: set[bool] = set()
    for number in HELPER_NUMBERS:
        texts = {f"p{at}": call(number, kinds) for at, kinds in enumerate(attacks(number))}
        with Machine() as machine:
            user = machine.user.alloc(4096)
            obj = machine.load(object_of(texts, MAPS), abi=ABI)
            context = user.addr.to_bytes(8, "little")
            committed = machine.memory.committed_bytes
            for program in obj.programs.values():
                trap = trap_of(lambda: program.run(context, budget_insns=5_000))  # noqa: B023
                if trap is not None:
                    check(trap, program.name, texts[program.name])
                trapped.add(trap is not None)
            assert machine.memory.committed_bytes - committed <= 1 << 20
    assert trapped == {False, True}


RING_HELPERS = [
    number
    for number, name in HELPER_NUMBERS.items()
    if name.startswith("io_uring") or "user" in name
]


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
@pytest.mark.parametrize("number", RING_HELPERS, ids=lambda n: HELPER_NUMBERS[n])
def test_ring_helpers_survive_every_argument(number: int, backend: BackendName) -> None:
    """On a ring a trap ends the request with -ECANCELED, everything else with 0."""
    texts = {f"p{at}": call(number, kinds) for at, kinds in enumerate(attacks(number))}
    names = list(texts)
    with raw_desk({"idle": "r0 = 0\nexit"}, backend, maps=MAPS) as desk:
        desk.ring.unregister_bpf()
        more = desk.ring.machine.load(object_of(texts, MAPS), abi=ABI)
        user = desk.ring.user.alloc(4096)
        ends: set[int] = set()
        for start in range(0, len(names), 100):
            chosen = names[start : start + 100]
            desk.ring.register_bpf([more[name] for name in chosen])
            for slot, name in enumerate(chosen):
                trap = trap_of(lambda: submit_and_settle(desk, slot, user.addr))  # noqa: B023
                if trap is not None:
                    check(trap, name, texts[name])
                res = dict(desk.left())[user.addr]
                assert res == (0 if trap is None else -errno.ECANCELED), texts[name]
                ends.add(res)
            desk.ring.unregister_bpf()
        assert ends == {0, -errno.ECANCELED}


# helper, arguments, its result (what the kernel's documents define)
DEFINED = [
    ("copy_from_user", ("stack", "small", "null"), -errno.EFAULT),
    ("copy_from_user", ("stack", "small", "kernel"), -errno.EFAULT),
    ("copy_from_user", ("stack", "small", "stack"), -errno.EFAULT),
    ("copy_from_user", ("stack", "small", "map"), -errno.EFAULT),
    ("copy_from_user", ("stack", "small", "ctx"), -errno.EFAULT),
    ("copy_from_user", ("stack", "small", "end of user"), -errno.EFAULT),
    ("copy_from_user", ("stack", "small", "before user"), -errno.EFAULT),
    ("copy_from_user", ("null", "null", "null"), 0),
    ("copy_from_user", ("stack", "small", "user"), 0),
    ("bpf_copy_to_user", ("null", "stack", "small"), -errno.EFAULT),
    ("bpf_copy_to_user", ("stack", "stack", "small"), -errno.EFAULT),
    ("bpf_copy_to_user", ("kernel", "stack", "small"), -errno.EFAULT),
    ("bpf_copy_to_user", ("end of user", "stack", "small"), -errno.EFAULT),
    ("bpf_copy_to_user", ("user", "stack", "null"), 0),
    ("probe_read_kernel", ("stack", "small", "kernel"), -errno.EFAULT),
    ("probe_read_kernel", ("stack", "small", "user"), -errno.EFAULT),
    ("probe_read_kernel", ("stack", "small", "stack"), 0),
    ("probe_read_user_str", ("stack", "small", "odd"), -errno.EFAULT),
    ("io_uring_emit_cqe", ("ctx", "small", "null", "null", "null"), -errno.EINVAL),
    ("io_uring_emit_cqe", ("ctx", "minus one", "null", "null", "null"), -errno.EINVAL),
    ("io_uring_reap_cqe", ("ctx", "one", "stack", "small"), -errno.ENOENT),
    ("io_uring_reap_cqe", ("ctx", "2^31", "stack", "small"), -errno.EINVAL),
]
TRAPPING = [
    ("copy_from_user", ("null", "small", "user")),
    ("copy_from_user", ("user", "small", "user")),
    ("copy_from_user", ("map", "small", "user")),
    ("copy_from_user", ("above the stack", "one", "user")),
    ("copy_from_user", ("stack", "2^31", "user")),
    ("copy_from_user", ("stack", "minus one", "user")),
    ("bpf_copy_to_user", ("user", "user", "small")),
    ("bpf_copy_to_user", ("user", "null", "small")),
    ("bpf_copy_to_user", ("user", "stack", "2^32-1")),
    ("io_uring_emit_cqe", ("stack", "null", "null", "null", "null")),
    ("io_uring_submit", ("ctx", "user", "64")),
    ("io_uring_submit", ("ctx", "stack edge", "64")),
    ("io_uring_submit", ("map", "stack", "64")),
    ("io_uring_reap_cqe", ("ctx", "null", "user", "small")),
    ("map_lookup_elem", ("stack", "stack")),
    ("map_lookup_elem", ("beside a map", "stack")),
    ("map_lookup_elem", ("map", "user")),
    ("map_update_elem", ("map", "stack", "above the stack", "null")),
    ("ringbuf_submit", ("stack", "null")),
    ("tail_call", ("ctx", "map", "null")),
]


def returning(name: str, arguments: tuple[str, ...]) -> str:
    """As `call`, with the result stored at the user address the context names."""
    number = next(number for number, known in HELPER_NUMBERS.items() if known == name)
    copy = next(number for number, known in HELPER_NUMBERS.items() if known == "bpf_copy_to_user")
    text = call(number, arguments).removesuffix("r0 = 0\nexit")
    keep = f"*(u64 *)(r10 - 72) = r0\nr1 = r7\nr2 = r10\nr2 += -72\nr3 = 8\ncall {copy}\n"
    return text + keep + "r0 = 0\nexit"


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_defined_results_and_traps(backend: BackendName) -> None:
    texts = {f"d{at}": returning(name, kinds) for at, (name, kinds, _) in enumerate(DEFINED)}
    texts |= {f"t{at}": returning(name, kinds) for at, (name, kinds) in enumerate(TRAPPING)}
    with raw_desk(texts, backend, maps=MAPS) as desk:
        user = desk.ring.user.alloc(4096)
        for slot, (name, kinds, result) in enumerate(DEFINED):
            user.write(b"\xaa" * 8)
            desk.submit_bpf(slot, user.addr)
            assert s64(user.u64()) == result, (name, kinds)
            desk.left()
        for slot, (name, kinds) in enumerate(TRAPPING, len(DEFINED)):
            user.write(b"\xaa" * 8)
            with pytest.raises(Trap):
                desk.submit_bpf(slot, user.addr)
            assert user.read(8) == b"\xaa" * 8, (name, kinds)
            assert desk.left() == [(user.addr, -errno.ECANCELED)]


def test_unknown_helpers_are_named_before_and_during_a_run() -> None:
    with Machine() as machine:
        obj = machine.load(object_of("call 9999\nr0 = 0\nexit"), abi=ABI)
        with pytest.raises(Trap, match="helper 9999"):
            obj["main"].run()
