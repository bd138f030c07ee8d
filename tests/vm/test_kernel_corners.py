"""Corners that generated programs do not reach, asked of the running kernel one by one."""

from __future__ import annotations

import pytest

from pybpfvm import bpfsys
from pybpfvm.bits import u32
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.program import MapSpec, MapType
from tests.support.vm import Machine

pytestmark = pytest.mark.kernel_bpf

PACKET = bytes(range(64))


@pytest.fixture(autouse=True)
def _kernel() -> None:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    return


def _kernel_r0(text: str, *map_fds: int, names: tuple[str, ...] = ()) -> int:
    """The 32-bit result of a socket filter."""
    insns = assemble(text, maps={n: i for i, n in enumerate(names)}, calls={"tail_call": 12})
    result = bpfsys.prog_load(
        encode(insns),
        prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER,
        map_fds=map_fds,
        log_level=1,
    )
    with result:
        assert result.fd is not None, result.log
        return bpfsys.prog_test_run(result.fd, PACKET, repeat=1).retval


# A socket filter sees the packet from behind its 14 bytes of Ethernet header.
SEEN = PACKET[14:]


@pytest.mark.parametrize(
    "load",
    [
        "*(u8 *)skb[0]",
        "*(u16 *)skb[3]",
        "*(u32 *)skb[46]",
        "*(u32 *)skb[47]",  # one byte too far
        "*(u8 *)skb[r7 + 5]",
        "*(u32 *)skb[r7 - 7]",  # before the packet
        "*(u16 *)skb[r8 + 0]",  # far behind it
        "*(u16 *)skb[-0xffffe]",  # from the network header on
        "*(u16 *)skb[-0x300000]",  # from nowhere
    ],
)
def test_packet_loads(load: str) -> None:
    text = f"r6 = r1\nr7 = 3\nr8 = 100000\nr0 = 77\nr0 = {load}\nr0 += 1\nexit"
    with Machine(text, packet=SEEN) as machine:
        assert u32(machine.run().r0) == _kernel_r0(text)


def test_may_goto_ends_a_loop_that_ends_itself() -> None:
    text = "r0 = 0\nmay_goto +3\nr0 += 1\nif r0 == 1000 goto +1\ngoto -4\nexit"
    with Machine(text) as machine:
        assert u32(machine.run().r0) == _kernel_r0(text) == 1000


COUNTING = """
  r6 = r1
  r2 = map[values][0]+0
  r3 = *(u64 *)(r2 + 0)
  r3 += 1
  *(u64 *)(r2 + 0) = r3
  r1 = r6
  r2 = map[progs]
  r3 = 0
  call tail_call#12
  r2 = map[values][0]+0
  r0 = *(u64 *)(r2 + 0)
  exit
"""


def test_as_many_tail_calls_as_the_kernel_makes() -> None:
    with (
        bpfsys.map_create(MapType.ARRAY, 4, 8, 1) as values,
        bpfsys.map_create(MapType.PROG_ARRAY, 4, 4, 1) as progs,
    ):
        insns = assemble(COUNTING, maps={"values": 0, "progs": 1})
        fds = (values.fileno(), progs.fileno())
        with bpfsys.prog_load(
            encode(insns), prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER, map_fds=fds
        ) as loaded:
            assert loaded.fd is not None
            bpfsys.map_update_elem(progs, bytes(4), loaded.fd.fileno().to_bytes(4, "little"))
            theirs = bpfsys.prog_test_run(loaded.fd, PACKET, repeat=1).retval
            bpfsys.map_delete_elem(progs, bytes(4))
    specs = (
        MapSpec("values", MapType.ARRAY, 4, 8, 1),
        MapSpec("progs", MapType.PROG_ARRAY, 4, 4, 1, slots={0: "main"}),
    )
    with Machine(COUNTING, maps=specs) as machine:
        assert machine.run().r0 == theirs
