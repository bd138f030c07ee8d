"""Damaged objects by the thousand, for test_loader_mutations.py and for longer runs by hand:

    python -m tests.loader.campaign_mutations CASES SEED

Each case damages one of data/*.o: bytes, words of headers, records of the tables that matter,
truncation, pieces of one object in another. It must end in an object or in one InputError. What
loads is used as `info` and `disasm` would. The process limits its own memory.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import time
from pathlib import Path

from pybpfvm.btf.format import define
from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import check_targets, encode
from pybpfvm.loader import load
from pybpfvm.program import BpfObject

DATA = Path(__file__).parent / "data"
MEMORY_BYTES = 256 << 20
SECONDS_PER_CASE = 5.0

_WORDS = (0, 1, 2, 3, 4, 7, 8, 16, 24, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000)


def damage(rng: random.Random, objects: list[bytes]) -> bytes:
    """One object with up to eight faults in it."""
    data = bytearray(rng.choice(objects))
    order = "<" if data[5] == 1 else ">"
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = _place(rng, data, order)
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                at = min(at & ~3, len(data) - 4)
                word = rng.choice((*_WORDS, len(data), rng.randrange(1 << 32), 0xFFFFFFFF))
                struct.pack_into(order + "I", data, at, word)
            case 3:
                at = min(at & ~3, len(data) - 4)
                (word,) = struct.unpack_from(order + "I", data, at)
                step = rng.choice((-8, -4, -1, 1, 4, 8, 1 << 24))
                struct.pack_into(order + "I", data, at, (word + step) & 0xFFFFFFFF)
            case 4:
                other = rng.choice(objects)
                size = rng.choice((4, 8, 16, 24, 64))
                start = rng.randrange(0, len(other) - size)
                data[at : at + size] = other[start : start + size]
            case 5:
                other_at = _place(rng, data, order)
                size = rng.choice((8, 16, 24, 64))
                data[at : at + size] = data[other_at : other_at + size]
        if len(data) < 64:
            break
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def _place(rng: random.Random, data: bytearray, order: str) -> int:
    """An offset: anywhere, or in the section headers, or in the part of the file before them,
    where code, BTF and the tables are."""
    (headers,) = struct.unpack_from(order + "Q", data, 40)
    headers = min(headers, len(data) - 1)
    choice = rng.randrange(8)
    if choice < 2 and headers < len(data) - 4:
        return rng.randrange(headers, len(data))
    if choice == 2:
        return rng.randrange(64)
    return rng.randrange(len(data))


def use(obj: BpfObject) -> None:
    """Look at everything, as `info` and `disasm` do."""
    for program in obj.programs:
        check_targets(program.insns)
        encode(program.insns, big_endian=obj.big_endian)
        for pc in range(min(program.slots, 100)):
            program.line_at(pc)
    if obj.btf is not None:
        for type_id in range(min(len(obj.btf), 200)):
            define(obj.btf, type_id)


def campaign(cases: int, seed: int) -> str:
    """Run it; a line that says what happened. AssertionError naming seed and case otherwise."""
    objects = [path.read_bytes() for path in sorted(DATA.glob("*.o"))]
    target = load(DATA / "core_target.o").btf
    assert isinstance(target, Btf)
    rng = random.Random(seed)
    loaded, slowest = 0, 0.0
    for case in range(cases):
        data = damage(rng, objects)
        start = time.process_time()
        try:
            use(load(data, target_btf=target, name="damaged.o"))
            loaded += 1
        except InputError as error:
            if "\n" in str(error) or not error.where:
                raise AssertionError(f"seed {seed}, case {case}: {error}") from error
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {case}: {error!r}") from error
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        assert seconds < SECONDS_PER_CASE, f"seed {seed}, case {case}: {seconds:.1f} s"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"{cases} cases, seed {seed}: {loaded} loaded, slowest {slowest:.3f} s, peak {peak} MiB"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    print(campaign(int(sys.argv[1]), int(sys.argv[2])))
