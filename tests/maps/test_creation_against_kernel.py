"""Which maps our rules and the running kernel create: seeded attributes, the same errno.

PYBPFVM_ORACLE_SEQUENCES (default 200) times ten sets of attributes are tried.
"""

from __future__ import annotations

import os
import random

import pytest

from pybpfvm import bpfsys
from pybpfvm.maps.rules import RULES, inner_refusal, refusal
from pybpfvm.program import BPF_F_NO_PREALLOC, MapSpec, MapType

pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(bpfsys.available() is not None, reason=f"bpf(2): {bpfsys.available()}"),
]

_SEQUENCES = int(os.environ.get("PYBPFVM_ORACLE_SEQUENCES", "200"))


def _random_attributes(rng: random.Random) -> MapSpec:
    """Attributes around every limit; sizes that make the kernel allocate much are left out."""
    type_ = rng.choice(tuple(RULES))
    sizes = (0, 1, 3, 4, 4, 4, 5, 8, 260, 261)
    key = rng.choice((*sizes, 1 << 22, (1 << 22) - 57, (1 << 22) - 56, 0xFFFFFFFF))
    value = rng.choice((*sizes, 32768, 32769, 4194024, 4194025, (1 << 22) + 1, 0xFFFFFFFF))
    entries = rng.choice((0, 1, 1, 1, 4, 4096, 8192, 12288))
    if type_ is MapType.RINGBUF and rng.random() < 0.8:
        key = value = 0
    if type_ in (MapType.QUEUE, MapType.STACK) and rng.random() < 0.8:
        key = 0
    if type_ in (MapType.PROG_ARRAY, MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
        value = rng.choice((value, 4, 4))
    if entries > 4 and value > 64:
        entries = 4 if value < (1 << 20) else 1
    if entries > 1 and key > 1 << 20:
        entries = 1
    flags = 0
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        flags |= 1 << rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 18, 21, 31))
    if type_ is MapType.LPM_TRIE and rng.random() < 0.9:
        flags |= BPF_F_NO_PREALLOC
    return MapSpec("m", type_, key, value, entries, flags, map_extra=rng.choice((0,) * 19 + (7,)))


def run_creation(seed: int, inner: bpfsys.Fd) -> bool:
    """One set of attributes, judged by both; whether they were accepted. Asserts agreement."""
    rng = random.Random(f"create-{seed}")
    spec = _random_attributes(rng)
    refused = refusal(spec)
    nested = spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    try:
        made = bpfsys.map_create(
            int(spec.type),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            flags=spec.flags,
            map_extra=spec.map_extra,
            inner_map_fd=inner.fileno() if nested else 0,
        )
    except OSError as error:
        kernel = error.errno
    else:
        made.close()
        kernel = 0
    ours = refused.errno if refused else 0
    assert ours == kernel, f"seed {seed}: {spec}: ours {ours} ({refused}), kernel {kernel}"
    return kernel == 0


def test_creation_agrees() -> None:
    with bpfsys.map_create(int(MapType.ARRAY), 4, 8, 1) as inner:
        accepted = sum(run_creation(seed, inner) for seed in range(10 * _SEQUENCES))
    assert accepted > _SEQUENCES, "the generator makes too few acceptable maps"


@pytest.mark.parametrize("type_", RULES, ids=lambda type_: type_.name)
def test_inner_maps_agree(type_: MapType) -> None:
    key, value, entries = 4, 4, 4
    if type_ is MapType.LPM_TRIE:
        key = 8
    if type_ in (MapType.QUEUE, MapType.STACK, MapType.RINGBUF):
        key, value = 0, 0 if type_ is MapType.RINGBUF else 4
        entries = 4096
    flags = BPF_F_NO_PREALLOC if type_ is MapType.LPM_TRIE else 0
    inner = MapSpec("inner", type_, key, value, entries, flags)
    nested = type_ in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    refused = inner_refusal(inner)
    with (
        bpfsys.map_create(int(MapType.ARRAY), 4, 8, 1) as leaf,
        bpfsys.map_create(
            int(type_),
            key,
            value,
            entries,
            flags=flags,
            inner_map_fd=leaf.fileno() if nested else 0,
        ) as template,
    ):
        for outer in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
            try:
                bpfsys.map_create(int(outer), 4, 4, 1, inner_map_fd=template.fileno()).close()
                kernel = 0
            except OSError as error:
                kernel = error.errno or -1
            assert (refused.errno if refused else 0) == kernel, f"{outer.name} of {type_.name}"
