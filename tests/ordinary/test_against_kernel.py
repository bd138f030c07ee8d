"""Ordinary objects from ELF to result: our interpreter and the running kernel do the same.

Both load the same file; the kernel gets what our loader made of it. The same seeded packets then
go through both, one after the other, and return values, packets and all maps are compared.
PYBPFVM_ORACLE_PACKETS is the number of packets for each program.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpfvm
from pybpfvm import bpfsys
from pybpfvm.bits import u32
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.profiles.base import CtxField, CtxHolds, Profile
from pybpfvm.profiles.ordinary import MAINLINE_HELPERS, ORDINARY
from pybpfvm.program import MapType, Program
from pybpfvm.session import LoadedObject, LoadedProgram, Machine
from tests.support.kernel_object import KernelObject

HERE = Path(__file__).parent
PACKETS = int(os.environ.get("PYBPFVM_ORACLE_PACKETS", "40"))
_REASON = bpfsys.available()

pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(_REASON is not None, reason=f"bpf(2): {_REASON}"),
]


@pytest.fixture(autouse=True)
def _on_cpu_0() -> Iterator[None]:
    """Per-CPU values are compared CPU by CPU, and our programs run on the first."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    yield
    os.sched_setaffinity(0, before)


def packet(rng: random.Random) -> bytes:
    """An Ethernet frame, often of IPv4, sometimes of little more than a header."""
    size = rng.choice((15, 20, 33, 34, 35, 42, 60, 64, rng.randrange(15, 1500)))
    frame = bytearray(rng.randbytes(size))
    frame[12:14] = rng.choice((b"\x08\0", b"\x08\0", b"\x86\xdd", b"\x01\x01", frame[12:14]))
    frame[0:6] = rng.choice((bytes(6), b"\xff" * 6, b"\1" * 6, frame[0:6]))
    if size > 24:
        frame[23] = rng.choice((1, 6, 17, frame[23]))
        frame[14:15] = b"\x45"
    return bytes(frame)


def maps_of(obj: LoadedObject) -> dict[str, dict[bytes, bytes]]:
    return {
        name: {key: view.live.host_lookup(key) for key in view.raw_keys()}
        for name, view in obj.maps.items()
        if view.spec.type != MapType.PROG_ARRAY
    }


def assert_same_maps(obj: LoadedObject, kernel: KernelObject, where: str) -> None:
    for name, ours in maps_of(obj).items():
        theirs = kernel.contents(obj.maps[name].spec)
        for key in ours.keys() | theirs.keys():
            mine, other = ours.get(key), theirs.get(key)
            assert mine == other, f"{where}: {name}[{key.hex()}]"


def compare_on_packets(program: LoadedProgram, kernel: KernelObject, seed: str) -> set[int]:
    """Run both on the same packets; the return values seen."""
    profile = program.profile
    fd = kernel.load(program.program, profile)
    if "tail_call" in {profile.helpers[call] for call in program.facts.helpers}:
        kernel.fill_program_arrays(profile)
    rng = random.Random(seed)
    seen = set()
    refused = 0
    for number in range(PACKETS):
        data = packet(rng)
        repeat = rng.choice((1, 1, 1, 3))
        try:
            theirs = bpfsys.prog_test_run(fd, data, repeat=repeat, data_out_bytes=len(data) + 64)
        except OSError as error:
            # Newer kernels do not make an skb of a frame that is too short for its protocol.
            assert error.errno == errno.EINVAL, error
            refused += 1
            continue
        ours = program.run(data=data, repeat=repeat)
        where = f"{seed}, packet {number} ({repeat} times): {data.hex()}"
        assert u32(ours.retval) == theirs.retval, where
        assert ours.data == theirs.data, where
        assert_same_maps(program.owner, kernel, where)
        seen.add(theirs.retval)
    print(f"{seed}: {PACKETS - refused} packets compared, {refused} refused by the kernel")
    assert refused <= PACKETS // 2
    return seen


@pytest.mark.parametrize(
    ("name", "program", "least"),
    [
        ("parse", "parse", 10),
        ("parse", "copy", 2),
        ("classify", "rewrite", 5),
        ("classify", "last_program", 1),
        ("classify", "look", 2),
        ("filter", "filter", 5),
    ],
)
def test_packets(name: str, program: str, least: int) -> None:
    with Machine() as machine:
        obj = machine.load(HERE / f"{name}.bpf.o", cpus=bpfsys.possible_cpus())
        with KernelObject(obj.object) as kernel:
            seen = compare_on_packets(obj[program], kernel, f"{name}.{program}")
    # Otherwise the packets would not lead anywhere.
    assert len(seen) >= min(least, PACKETS // 4)


@pytest.mark.parametrize("program", ["traced", "called"])
def test_contexts(program: str) -> None:
    rng = random.Random(program)
    with Machine() as machine:
        obj = machine.load(HERE / "state.bpf.o")
        with KernelObject(obj.object) as kernel:
            fd = kernel.load(obj[program].program, obj[program].profile)
            for _ in range(PACKETS):
                words = [rng.getrandbits(rng.choice((1, 4, 64))) for _ in range(2)]
                text = rng.choice(
                    (b"counter\0", b"counterx", b"cou\0zzzz", b"c\0\0\0\0\0\0\0", b"d")
                )
                ctx = b"".join(word.to_bytes(8, "little") for word in words) + text.ljust(8, b"\0")
                ctx = ctx.ljust(96 if program == "traced" else 24, b"\xa5")
                theirs = bpfsys.prog_test_run(fd, ctx=ctx)
                ours = obj[program].run(ctx)
                where = f"{program}: {ctx.hex()}"
                assert u32(ours.retval) == theirs.retval, where
                assert_same_maps(obj, kernel, where)
                if program == "called":
                    assert ours.ctx[: len(ctx)] == theirs.ctx, where
