"""Bytes changed as fuzzers do: bits, bytes, numbers that are often wrong, blocks moved about.

`mutate` has the signature that custom mutators of AFL++ (`fuzz` without the second buffer) and of
libFuzzer and atheris (`CustomMutator(data, max_size, seed)`, in another order) are called with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from pybpfvm.errors import InputError

_NUMBERS = (0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF)
_WIDE = (0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_SIZES = (1, 2, 4, 8)
_LONGEST = 32


def mutate(data: bytes, seed: int, max_size: int) -> bytes:
    """Another input of at most `max_size` bytes, at least one unless that is 0.

    The same arguments give the same. Raises InputError for a negative size.
    """
    if max_size < 0:
        raise InputError(f"at most {max_size} bytes", where="mutate", remedy="0 or more")
    random = Random(seed)
    changed = bytearray(data[:max_size])
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        random.choice(_CHANGES)(random, changed)
        if not changed:
            changed.append(random.getrandbits(8))
    return bytes(changed[:max_size])


def change_in_place(random: Random, data: bytearray, words: Sequence[int] = ()) -> None:
    """Change some of the bytes, not how many there are; nothing where there are none. `words` are
    numbers that matter to who reads them."""
    if not data:
        return
    kind = int(random.random() * 8)
    at = int(random.random() * len(data))
    if kind < 2:
        data[at] ^= 1 << int(random.random() * 8)
    elif kind < 4:
        data[at] = int(random.random() * 256)
    elif kind < 5:
        data[at] = data[at] + random.choice((-1, 1, 8, -8)) & 0xFF
    elif kind < 7:
        _number(random, data, words)
    else:
        _copy(random, data)


def _flip(random: Random, data: bytearray) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _byte(random: Random, data: bytearray) -> None:
    if data:
        data[random.randrange(len(data))] = random.getrandbits(8)


def _number(random: Random, data: bytearray, words: Sequence[int] = ()) -> None:
    """A number of 1 to 8 bytes, in either byte order."""
    size = _SIZES[int(random.random() * 4)]
    if len(data) < size:
        return
    at = int(random.random() * (len(data) - size + 1))
    if random.random() < 0.7:
        at -= at % size
    chosen = random.random()
    numbers = words if words and chosen < 0.5 else _NUMBERS if chosen < 0.8 else _WIDE
    value = numbers[int(random.random() * len(numbers))]
    if random.random() < 0.2:
        value = -value
    order = "big" if random.random() < 0.2 else "little"
    data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, order)  # type: ignore[arg-type]


def _copy(random: Random, data: bytearray) -> None:
    size = min(random.randint(1, _LONGEST), len(data))
    start, at = random.randrange(len(data) - size + 1), random.randrange(len(data) - size + 1)
    data[at : at + size] = data[start : start + size]


def _remove(random: Random, data: bytearray) -> None:
    if len(data) > 1:
        start = random.randrange(len(data))
        del data[start : start + random.randint(1, _LONGEST)]


def _insert(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.randbytes(random.randint(1, _LONGEST))


def _repeat(random: Random, data: bytearray) -> None:
    if data:
        start = random.randrange(len(data))
        piece = data[start : start + random.randint(1, _LONGEST)]
        at = random.randrange(len(data) + 1)
        data[at:at] = piece


_CHANGES: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip,
    _flip,
    _byte,
    _number,
    _number,
    lambda random, data: _copy(random, data) if data else None,
    _remove,
    _insert,
    _repeat,
)
