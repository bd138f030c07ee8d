"""Maps of maps, ours and the running kernel's, given the same seeded commands.

The kernel takes file descriptors and gives ids back, ours handles: values compare as there or
not, refusals by errno. PYBPFVM_ORACLE_SEQUENCES as in test_against_kernel.py.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable

import pytest

from pybpfvm import bpfsys
from pybpfvm.maps import make_map
from pybpfvm.maps.base import MapError
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_INNER_MAP, BPF_F_NO_PREALLOC, MapSpec, MapType

pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(bpfsys.available() is not None, reason=f"bpf(2): {bpfsys.available()}"),
]

_COMMANDS = 60
_SEQUENCES = int(os.environ.get("PYBPFVM_ORACLE_SEQUENCES", "200"))

_INNER = (
    MapSpec("array", MapType.ARRAY, 4, 8, 2),
    MapSpec("array_longer", MapType.ARRAY, 4, 8, 3),
    MapSpec("array_wider", MapType.ARRAY, 4, 16, 2),
    MapSpec("array_any_length", MapType.ARRAY, 4, 8, 3, BPF_F_INNER_MAP),
    MapSpec("array_any_length_2", MapType.ARRAY, 4, 8, 2, BPF_F_INNER_MAP),
    MapSpec("percpu_array", MapType.PERCPU_ARRAY, 4, 8, 2),
    MapSpec("percpu_array_longer", MapType.PERCPU_ARRAY, 4, 8, 3),
    MapSpec("hash", MapType.HASH, 4, 8, 2),
    MapSpec("hash_longer", MapType.HASH, 4, 8, 3),
    MapSpec("hash_lazy", MapType.HASH, 4, 8, 2, BPF_F_NO_PREALLOC),
    MapSpec("queue", MapType.QUEUE, 0, 8, 2),
    MapSpec("queue_longer", MapType.QUEUE, 0, 8, 3),
)


class _Nested:
    """A map of maps twice, with the same inner maps to put into it."""

    def __init__(self, type_: MapType, inner: MapSpec, stack: contextlib.ExitStack) -> None:
        memory = stack.enter_context(AddressSpace())
        self.fds = [
            stack.enter_context(
                bpfsys.map_create(
                    int(s.type), s.key_size, s.value_size, s.max_entries, flags=s.flags
                )
            )
            for s in _INNER
        ]
        self.handles = [make_map(s, memory).handle for s in _INNER]
        template = self.fds[_INNER.index(inner)].fileno()
        self.kernel = stack.enter_context(
            bpfsys.map_create(int(type_), 4, 4, 3, inner_map_fd=template)
        )
        self.ours = make_map(MapSpec("outer", type_, 4, 4, 3, inner=inner), memory)


def run_nested(type_: MapType, seed: int) -> int:
    """One sequence of commands on a map of maps; values compare as there or not."""
    rng = random.Random(f"{type_.name}-{seed}")
    with contextlib.ExitStack() as stack:
        pair = _Nested(type_, rng.choice(_INNER), stack)
        for step in range(_COMMANDS):
            key = rng.randrange(5).to_bytes(4, "little")
            command = rng.choice(("update", "update", "update", "lookup", "delete", "pop"))
            chosen = rng.randrange(len(_INNER) + 1)
            flags = rng.choice((0, 0, 0, 1, 2, 3, 4))
            ours = _answer(_nested_ours(pair, command, key, chosen, flags))
            kernel = _answer(_nested_kernel(pair, command, key, chosen, flags))
            where = f"{type_.name} seed {seed} step {step}: {command} {key!r} {chosen} {flags}"
            assert ours == kernel, f"{where}: ours {ours}, kernel {kernel}"
    return _COMMANDS


def _answer(call: Callable[[], object]) -> int:
    """0, or -errno."""
    try:
        call()
    except (OSError, MapError) as error:
        return -(error.errno or 0)
    return 0


def _nested_ours(
    pair: _Nested, command: str, key: bytes, chosen: int, flags: int
) -> Callable[[], object]:
    ours = pair.ours
    assert isinstance(ours, LiveMap)
    handle = (pair.handles[chosen] if chosen < len(pair.handles) else 0xDEAD).to_bytes(8, "little")
    return {
        "update": lambda: ours.host_update(key, handle, flags),
        "lookup": lambda: ours.host_lookup(key),
        "delete": lambda: ours.host_delete(key),
        "pop": lambda: ours.host_lookup_and_delete(key),
    }[command]


def _nested_kernel(
    pair: _Nested, command: str, key: bytes, chosen: int, flags: int
) -> Callable[[], object]:
    fd = pair.fds[chosen].fileno() if chosen < len(pair.fds) else 0x7FFFFFFF
    value = fd.to_bytes(4, "little")
    return {
        "update": lambda: bpfsys.map_update_elem(pair.kernel, key, value, flags),
        "lookup": lambda: bpfsys.map_lookup_elem(pair.kernel, key, 4),
        "delete": lambda: bpfsys.map_delete_elem(pair.kernel, key),
        "pop": lambda: bpfsys.map_lookup_and_delete_elem(pair.kernel, key, 4),
    }[command]


@pytest.mark.parametrize("type_", [MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS])
def test_maps_of_maps_agree(type_: MapType) -> None:
    for seed in range(max(1, _SEQUENCES // 10)):
        run_nested(type_, seed)
