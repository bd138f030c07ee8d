"""What a ring with a loop looks like once it is set up, as a document that tools exchange.

`doctor --ring` writes it (`pybpfvm.ring/1`), `verify --ring` holds programs against it. Offsets
are those that io_uring_setup reports; abi/iouring-bpf-upstream, section 3.3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pybpfvm.bits import align_up
from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Region
from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.loop.memory import CQ_OFFSETS, SQ_OFFSETS, ring_layout
from pybpfvm.uring_backend.loop.setup import LoopSetup, check_setup

DOCUMENT: Final = "ring/1"
_PAGE = 4096  # of the kernels that have such rings
_SQ_NAMES = (*SQ_OFFSETS, "array")
_CQ_NAMES = tuple(CQ_OFFSETS)
# By the names that scenarios have for them.
FLAGS: Final = {
    name.removeprefix("SETUP_").lower(): value
    for name, value in vars(abi).items()
    if name.startswith("SETUP_") and name != "SETUP_PARAMS_BYTES"
}


@dataclass(frozen=True, slots=True)
class RingShape:
    """Sizes in entries, IORING_SETUP_* `flags`, offsets in bytes of the CQ region by the names of
    struct io_sqring_offsets and io_cqring_offsets, and `mem_bytes` of the MEM region (0: none)."""

    sq_entries: int
    cq_entries: int
    flags: int
    sq_off: Mapping[str, int]
    cq_off: Mapping[str, int]
    mem_bytes: int = 0

    @property
    def sqe_bytes(self) -> int:
        """What one SQE takes."""
        return abi.sqe_bytes(self.flags)

    @property
    def cqe_bytes(self) -> int:
        """What one CQE takes."""
        return abi.cqe_bytes(self.flags)

    @property
    def rewinds(self) -> bool:
        """Whether each submission starts with SQE 0 and moves no index."""
        return bool(self.flags & abi.SETUP_SQ_REWIND)

    def region_bytes(self, region: Region) -> int:
        """How large a program may ask for a region; 0 for a MEM that there is not."""
        if region is Region.MEM:
            return self.mem_bytes
        if region is Region.SQ:
            return align_up(self.sq_entries * self.sqe_bytes, _PAGE)
        size = self.cq_off["cqes"] + self.cq_entries * abi.CQE_BYTES
        size *= self.cqe_bytes // abi.CQE_BYTES  # as kernels double it
        if not self.flags & abi.SETUP_NO_SQARRAY:
            size = max(size, self.sq_off["array"] + 4 * self.sq_entries)
        return align_up(size, _PAGE)


def shape_of(setup: LoopSetup, mem_bytes: int = 0) -> RingShape:
    """The shape of a ring as rings here are laid out."""
    layout = ring_layout(setup)
    return RingShape(
        setup.sq_entries,
        setup.cq_entries,
        setup.flags,
        {name: layout[f"sq_{name}"] for name in _SQ_NAMES},
        {name: layout[f"cq_{name}"] for name in _CQ_NAMES},
        mem_bytes,
    )


def document(shape: RingShape, source: str) -> dict[str, object]:
    """The document without its schema; `source`: who says so."""
    return {
        "source": source,
        "sq_entries": shape.sq_entries,
        "cq_entries": shape.cq_entries,
        "flags": [name for name, bit in FLAGS.items() if shape.flags & bit],
        "sq_off": dict(shape.sq_off),
        "cq_off": dict(shape.cq_off),
        "mem_bytes": shape.mem_bytes,
    }


def parse_shape(text: str, where: str) -> RingShape:
    """The shape that a document describes; InputError for one that describes none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(where, f"not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != f"pybpfvm.{DOCUMENT}":
        raise _wrong(where, f"not a pybpfvm.{DOCUMENT} document")
    names = found.get("flags")
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise _wrong(where, "flags is not a list of names")
    unknown = sorted(set(names) - FLAGS.keys())
    if unknown:
        raise _wrong(where, f"unknown flag {unknown[0][:40]!r}")
    shape = RingShape(
        _number(found, "sq_entries", where, abi.MAX_SQ_ENTRIES),
        _number(found, "cq_entries", where, abi.MAX_CQ_ENTRIES),
        sum(FLAGS[name] for name in set(names)),
        _offsets(found, "sq_off", _SQ_NAMES, where),
        _offsets(found, "cq_off", _CQ_NAMES, where),
        _number(found, "mem_bytes", where, 1 << 40, least=0),
    )
    for entries in (shape.sq_entries, shape.cq_entries):
        if entries & (entries - 1):
            raise _wrong(where, f"{entries} entries are no power of two")
    return shape


def parse_setup(text: str) -> tuple[LoopSetup, int]:
    """The ring that `entries=8,cq_entries=16,flags=single_issuer+defer_taskrun,mem=4096` asks
    for, and the bytes of its MEM region; what is left out is 8, twice that, the flags of the
    simplest programs, 0. InputError or RingError for a ring that can not be."""
    wanted = {"entries": "8", "cq_entries": "0", "mem": "0"}
    wanted["flags"] = "single_issuer+defer_taskrun+no_sqarray+sq_rewind"
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in wanted or not equals:
            raise InputError(
                f"{part[:40]!r} says nothing of a ring",
                where="--ring",
                remedy="write entries=, cq_entries=, flags= (names joined by +) or mem=",
            )
        wanted[name] = value
    names = [name for name in wanted["flags"].split("+") if name]
    for name in names:
        if name not in FLAGS:
            raise InputError(
                f"no set-up flag is called {name[:40]!r}",
                where="--ring",
                remedy=f"known: {', '.join(FLAGS)}",
            )
    numbers = {name: _count(name, wanted[name]) for name in ("entries", "cq_entries", "mem")}
    flags = sum(FLAGS[name] for name in set(names))
    cq_entries = numbers["cq_entries"]
    if cq_entries:
        flags |= abi.SETUP_CQSIZE
    return check_setup(numbers["entries"], flags, cq_entries), align_up(numbers["mem"], _PAGE)


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InputError(f"{name} is not a number: {text[:40]!r}", where="--ring")
    return int(text)


def _number(
    found: Mapping[str, object], name: str, where: str, most: int, *, least: int = 1
) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(where, f"{name} is not a number from {least} to {most}")
    return value


def _offsets(
    found: Mapping[str, object], name: str, names: tuple[str, ...], where: str
) -> dict[str, int]:
    table = found.get(name)
    if not isinstance(table, dict):
        raise _wrong(where, f"{name} is no table")
    return {one: _number(table, one, f"{where}: {name}", 1 << 24, least=0) for one in names}


def _wrong(where: str, reason: str) -> InputError:
    return InputError(reason, where=where, remedy="write one with `pybpfvm doctor --ring`")
