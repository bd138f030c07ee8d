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

from pybpfvm import bpfsys
from pybpfvm.bits import u32
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.profiles.base import CtxField, CtxHolds, Profile
from pybpfvm.profiles.ctxaccess import ctx_violation
from pybpfvm.profiles.detect import Detection
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.program import BpfObject, MapType, Program
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


def cut_short(frame: bytes) -> bool:
    """Whether the frame ends within the fixed header of its IPv4 or IPv6."""
    header = {b"\x08\0": 20, b"\x86\xdd": 40}.get(frame[12:14], 0)
    return len(frame) < 14 + header


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
            if error.errno != errno.EINVAL or not cut_short(data):
                raise
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


# Contexts: which accesses a type allows, and what its fields hold.

_PACKET_TYPES = tuple(profile for profile in ORDINARY if profile.packet is not None)
_SIZES = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
_FRAME = bytes(12) + b"\x08\0\x45" + bytes(range(45))


def _program(text: str, profile: Profile) -> Program:
    return Program("probe", profile.own_section, assemble(text))


def _takes(profile: Profile, program: Program) -> bpfsys.LoadResult:
    return bpfsys.prog_load(encode(program.insns), prog_type=profile.prog_type)


def _allowed(profile: Profile, offset: int, size: int, *, store: bool) -> bool:
    if ctx_violation(profile, offset, size, store=store, plain=True, strict=True) is not None:
        return False
    found = profile.ctx_field_named(offset, size, store=store)
    return found is not None and found.holds is not CtxHolds.KERNEL_OBJECT


def _concerns_kernel_object(profile: Profile, offset: int, size: int) -> bool:
    return any(
        one.holds is CtxHolds.KERNEL_OBJECT
        and one.offset < offset + size
        and offset < one.offset + one.size
        for one in profile.ctx_fields
    )


@pytest.mark.parametrize("store", [False, True], ids=["loads", "stores"])
@pytest.mark.parametrize("profile", _PACKET_TYPES, ids=lambda profile: profile.name)
def test_every_context_access_is_allowed_alike(profile: Profile, store: bool) -> None:
    """Every aligned access, and some that are not. Fields of kernel objects are left out."""
    wrong = []
    compared = 0
    for offset in range(profile.ctx_bytes + 8):
        for size in _SIZES:
            if _concerns_kernel_object(profile, offset, size) or offset % size not in (0, 1):
                continue
            where = f"*({_SIZES[size]} *)(r1 + {offset})"
            access = f"{where} = r0" if store else f"r2 = {where}"
            with _takes(profile, _program(f"r0 = 0\n{access}\nexit", profile)) as loaded:
                compared += 1
                if loaded.accepted != _allowed(profile, offset, size, store=store):
                    wrong.append(
                        f"{access}: the kernel {'takes' if loaded.accepted else 'refuses'}"
                    )
    assert compared > 40
    assert wrong == []


@pytest.mark.parametrize("profile", _PACKET_TYPES, ids=lambda profile: profile.name)
def test_every_field_holds_the_same(profile: Profile) -> None:
    """For scalars their value, for packet pointers how far they are apart: what we compute is
    what a program on the kernel finds. (It answers 0 or 1, as some types must.)"""
    compared = 0
    with Machine() as machine:
        for one in profile.ctx_fields:
            if one.holds is CtxHolds.KERNEL_OBJECT:
                continue
            compared += 1
            reader = _reader(one)
            program = _program(f"{reader}\nexit", profile)
            image = Image(BpfObject("probe", "", (program,), ()), machine.memory)
            obj = LoadedObject(image, profile, Detection(profile, (profile,), ()))
            ours = obj["probe"].run(data=_FRAME).retval
            for expected, value in ((1, ours), (0, ours + 1)):
                text = (
                    f"{reader}\nr3 = {value} ll\nr4 = r0\nr0 = 0\nif r4 != r3 goto +1\nr0 = 1\nexit"
                )
                with _takes(profile, _program(text, profile)) as loaded:
                    assert loaded.fd is not None, one
                    ran = bpfsys.prog_test_run(loaded.fd, _FRAME, repeat=1)
                assert ran.retval == expected, f"{one.name}: ours {ours}"
    assert compared >= 5


def _reader(ctx_field: CtxField) -> str:
    """Code that leaves the field's value in r0, for packet pointers the distance from data."""
    offset = ctx_field.offset
    if ctx_field.holds in (CtxHolds.DATA, CtxHolds.DATA_END, CtxHolds.DATA_META):
        data = 0 if offset < 12 else 76
        return f"r0 = *(u32 *)(r1 + {offset})\nr2 = *(u32 *)(r1 + {data})\nr0 -= r2"
    size = ctx_field.size if ctx_field.size in _SIZES else 4
    return f"r0 = *({_SIZES[size]} *)(r1 + {offset})"
