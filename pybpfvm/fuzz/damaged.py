"""Objects with faults in them: bytes, words of headers, records of the tables that matter,
truncation, pieces of one object in another.

What loads is used as `info` and `disasm` would (`use`).
"""

from __future__ import annotations

import random
import struct

from pybpfvm.btf.format import define
from pybpfvm.isa.codec import check_targets, encode
from pybpfvm.program import BpfObject

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
