"""Our maps and the running kernel's, given the same seeded commands, answer the same.

PYBPFVM_ORACLE_SEQUENCES sets the number of sequences per map type (default 200 in total).
Recorded differences, and how the comparison allows for them:
- hash and trie iteration order is unspecified: complete traversals are compared as sets;
- kernels drop LRU elements earlier and in another order: presence is brought into agreement
  before each command, and counted; everything else is compared. They also make room before they
  look at the flags, and may so drop the very element that an update is about. (LRU maps are not
  frozen or write-only here: neither presence could be told nor agreement be reached.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pybpfvm import bpfsys
from pybpfvm.bits import align_up
from pybpfvm.maps import make_map
from pybpfvm.maps.base import MapError
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_NO_PREALLOC, MapSpec, MapType

pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(bpfsys.available() is not None, reason=f"bpf(2): {bpfsys.available()}"),
]

_COMMANDS = 60
_CPUS = bpfsys.possible_cpus() if bpfsys.available() is None else 1
_PER_CPU = (MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)
_LRU = (MapType.LRU_HASH, MapType.LRU_PERCPU_HASH)
_QUEUES = (MapType.QUEUE, MapType.STACK)
_VALUE_TYPES = (
    MapType.ARRAY,
    MapType.PERCPU_ARRAY,
    MapType.HASH,
    MapType.PERCPU_HASH,
    MapType.LRU_HASH,
    MapType.LRU_PERCPU_HASH,
    MapType.LPM_TRIE,
    MapType.QUEUE,
    MapType.STACK,
    MapType.RINGBUF,
)
_SEQUENCES = int(os.environ.get("PYBPFVM_ORACLE_SEQUENCES", "200"))

Answer = bytes | int | None  # a value, a negative errno, or done


@dataclass
class Pair:
    """The same map twice; `evictions` counts LRU elements that had to be reconciled."""

    ours: LiveMap
    kernel: bpfsys.Fd
    value_bytes: int
    evictions: int = 0

    def ask_ours(self, command: str, *args: bytes | int | None) -> Answer:
        """Our answer."""
        try:
            answer: Answer = getattr(self.ours, command)(*args)
        except MapError as error:
            return -error.errno
        return answer

    def ask_kernel(self, command: str, *args: bytes | int | None) -> Answer:
        """The kernel's answer to the same command."""
        calls: dict[str, Callable[..., Answer]] = {
            "host_lookup": lambda key: bpfsys.map_lookup_elem(self.kernel, key, self.value_bytes),
            "host_update": lambda key, value, flags: bpfsys.map_update_elem(
                self.kernel, key, value, flags
            ),
            "host_delete": lambda key: bpfsys.map_delete_elem(self.kernel, key),
            "host_lookup_and_delete": lambda key: bpfsys.map_lookup_and_delete_elem(
                self.kernel, key, self.value_bytes
            ),
            "next_key": lambda key: bpfsys.map_get_next_key(
                self.kernel, key, self.ours.spec.key_size
            ),
            "freeze": lambda: bpfsys.map_freeze(self.kernel),
        }
        try:
            return calls[command](*args)
        except OSError as error:
            return -(error.errno or 0)

    def traverse(self, ask: Callable[..., Answer]) -> list[Answer]:
        """All keys by next_key, and what ended it."""
        keys: list[Answer] = []
        key: Answer = None
        while True:
            key = ask("next_key", key)
            keys.append(key)
            if not isinstance(key, bytes) or len(keys) > 10_000:
                return keys

    def agree_on_presence(self, key: bytes) -> None:
        """LRU only: take what one of the two has dropped already away from the other."""
        ours = isinstance(self.ask_ours("host_lookup", key), bytes)
        kernel = isinstance(self.ask_kernel("host_lookup", key), bytes)
        if ours != kernel:
            self.evictions += 1
            (self.ask_ours if ours else self.ask_kernel)("host_delete", key)


def _spec(rng: random.Random, type_: MapType) -> MapSpec:
    key, value, entries = rng.choice((1, 3, 4, 8, 17)), rng.choice((1, 4, 7, 8, 24)), 0
    entries = rng.choice((1, 2, 5, 16))
    flags = rng.choice((0, 0, 0, 0, 0, 1 << 7, 1 << 8))
    if type_ not in _LRU:
        flags |= rng.choice((0, 0, 0, 0, 0, 1 << 3, 1 << 4))
    match type_:
        case MapType.ARRAY | MapType.PERCPU_ARRAY:
            key = 4
            flags |= rng.choice((0, 0, 1 << 10)) if type_ is MapType.ARRAY else 0
        case MapType.HASH | MapType.PERCPU_HASH:
            flags |= rng.choice((0, BPF_F_NO_PREALLOC))
        case MapType.LPM_TRIE:
            key, flags = rng.choice((5, 6, 8, 20)), flags | BPF_F_NO_PREALLOC
        case MapType.QUEUE | MapType.STACK:
            key = 0
        case MapType.RINGBUF:
            key, value, entries, flags = 0, 0, 4096, 0
        case _:
            pass
    return MapSpec("m", type_, key, value, entries, flags)


def _key(rng: random.Random, spec: MapSpec) -> bytes:
    if spec.type in (MapType.ARRAY, MapType.PERCPU_ARRAY):
        index = rng.choice((0, rng.randrange(spec.max_entries + 2), 0xFFFFFFFF))
        return index.to_bytes(4, "little")
    if spec.type == MapType.LPM_TRIE:
        bits = 8 * (spec.key_size - 4)
        length = rng.choice((0, 1, 2, 7, 8, 9, bits, bits, bits - 1, bits + 1, rng.randrange(bits)))
        data = rng.choice((0, 0xFF, 0x80, 0xC0, 0x55)) if rng.random() < 0.7 else rng.getrandbits(8)
        rest = rng.choice((b"\0", b"\xff")) * (spec.key_size - 5)
        return length.to_bytes(4, "little") + bytes((data,)) + rest
    if spec.key_size == 0:
        return b""
    return bytes((rng.randrange(spec.max_entries + 4),)) * spec.key_size


@contextlib.contextmanager
def _pair(spec: MapSpec) -> Iterator[Pair]:
    per_cpu = spec.type in _PER_CPU
    value_bytes = align_up(spec.value_size, 8) * _CPUS if per_cpu else spec.value_size
    kernel = bpfsys.map_create(
        int(spec.type), spec.key_size, spec.value_size, spec.max_entries, flags=spec.flags
    )
    with AddressSpace() as memory, kernel:
        ours = make_map(spec, memory, cpus=_CPUS)
        assert isinstance(ours, LiveMap)
        yield Pair(ours, kernel, value_bytes)


def _update_lru(pair: Pair, where: str, key: bytes, value: bytes, flags: int) -> None:
    """Compare an update, but for an element that the kernel drops while it makes room for it."""
    args = (key, value, flags)
    ours, kernel = pair.ask_ours("host_update", *args), pair.ask_kernel("host_update", *args)
    dropped = (flags, ours, kernel) in ((2, None, -errno.ENOENT), (1, -errno.EEXIST, None))
    if dropped:
        pair.evictions += 1
        pair.ask_ours("host_delete", key)
        ours = pair.ask_ours("host_update", *args)
    assert ours == kernel, f"{where}: update {args}: ours {ours!r}, kernel {kernel!r}"


def _compare(pair: Pair, where: str, command: str, *args: bytes | int | None) -> Answer:
    ours, kernel = pair.ask_ours(command, *args), pair.ask_kernel(command, *args)
    assert ours == kernel, f"{where}: {command}{args}: ours {ours!r}, kernel {kernel!r}"
    return ours


def _traversals_agree(pair: Pair, where: str) -> None:
    ours, kernel = pair.traverse(pair.ask_ours), pair.traverse(pair.ask_kernel)
    if pair.ours.spec.type in _LRU:
        for key in {*ours, *kernel}:
            if isinstance(key, bytes):
                pair.agree_on_presence(key)
        ours, kernel = pair.traverse(pair.ask_ours), pair.traverse(pair.ask_kernel)
    if pair.ours.spec.type not in (MapType.ARRAY, MapType.PERCPU_ARRAY):
        assert ours[-1] == kernel[-1], where
        assert len(ours) == len(set(ours)), where
        assert set(ours) == set(kernel), where
    else:
        assert ours == kernel, where


def run_sequence(type_: MapType, seed: int) -> int:
    """One sequence of commands on both; how many answers were compared. Asserts agreement."""
    rng = random.Random(f"{type_.name}-{seed}")
    spec = _spec(rng, type_)
    where = f"{type_.name} seed {seed}: {spec}"
    compared = 0
    with _pair(spec) as pair:
        for _ in range(_COMMANDS):
            command = rng.choices(
                (
                    "host_update",
                    "host_lookup",
                    "host_delete",
                    "host_lookup_and_delete",
                    "next_key",
                    "traverse",
                    "freeze",
                ),
                (40, 20, 12, 12, 5, 3, 0.4),
            )[0]
            key = _key(rng, spec)
            if type_ in _LRU:
                pair.agree_on_presence(key)
            compared += 1
            if command == "host_update":
                flags = rng.choice((0, 0, 0, 0, 1, 2, 2, 3, 4, 5, 1 << 40))
                value = rng.randbytes(pair.value_bytes)
                if type_ in _LRU:
                    _update_lru(pair, where, key, value, flags)
                else:
                    _compare(pair, where, command, key, value, flags)
            elif command in ("traverse", "next_key") and type_ not in _QUEUES:
                _traversals_agree(pair, where)
            elif command == "freeze" and type_ not in _LRU:
                _compare(pair, where, command)
            elif command in ("host_lookup", "host_delete", "host_lookup_and_delete"):
                _compare(pair, where, command, key)
            elif type_ not in _LRU:
                _compare(pair, where, "next_key", None)
    return compared


@pytest.mark.parametrize("type_", _VALUE_TYPES, ids=lambda type_: type_.name)
def test_commands_agree(type_: MapType) -> None:
    for seed in range(max(1, _SEQUENCES // len(_VALUE_TYPES))):
        run_sequence(type_, seed)
