"""Documents that describe rings with a loop: written, read, and refused where they are wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pybpfvm.errors import InputError, RingError, UnsupportedError
from pybpfvm.memory import AddressSpace
from pybpfvm.profiles.base import Region
from pybpfvm.uring_backend.abi import SETUP_CQE32, SETUP_SQ_REWIND, SETUP_SQE128
from pybpfvm.uring_backend.kernel import probe
from pybpfvm.uring_backend.kernel.shape import measured
from pybpfvm.uring_backend.loop.memory import LoopMemory
from pybpfvm.uring_backend.loop.shape import (
    RingShape,
    document,
    parse_setup,
    parse_shape,
    shape_of,
)

SETUPS = (
    "",
    "entries=5,cq_entries=64",
    "entries=512,flags=single_issuer+defer_taskrun,mem=100",
    "flags=",
    "entries=16,cq_entries=128,flags=sqe128+cqe32",
    "entries=4,cq_entries=128,flags=cqe32+no_sqarray",
)


def shape(text: str) -> RingShape:
    return shape_of(*parse_setup(text))


def written(one: RingShape, **changed: Any) -> str:
    return json.dumps({"schema": "pybpfvm.ring/1", **document(one, "a test"), **changed})


@pytest.mark.parametrize("text", SETUPS)
def test_what_is_written_is_read(text: str) -> None:
    one = shape(text)
    assert parse_shape(written(one), "f.json") == one


@pytest.mark.parametrize("text", SETUPS)
def test_regions_are_as_large_as_those_of_a_ring(text: str) -> None:
    setup, mem_bytes = parse_setup(text)
    one = shape_of(setup, mem_bytes)
    with AddressSpace() as memory:
        queues = LoopMemory(memory, setup, 0)
        for region in (Region.CQ, Region.SQ):
            found = queues.region(region)
            assert found is not None
            assert one.region_bytes(region) == found.size
        queues.free()
    assert one.region_bytes(Region.MEM) == mem_bytes == (4096 if "mem" in text else 0)


def test_double_sizes() -> None:
    one = replace(shape("entries=64,cq_entries=256"), flags=SETUP_SQE128 | SETUP_CQE32)
    assert (one.sqe_bytes, one.cqe_bytes) == (128, 32)
    assert one.region_bytes(Region.SQ) == 64 * 128
    # 256 CQEs of 32 bytes behind 64 bytes, in whole pages.
    assert one.region_bytes(Region.CQ) == 3 * 4096


@pytest.mark.kernel_ring
@pytest.mark.parametrize("text", SETUPS[1:])
def test_the_running_kernel_lays_rings_out_as_we_do(text: str) -> None:
    refused = probe.available()
    if refused is not None:
        pytest.skip(refused.reason)
    one = shape(text)
    found, source = measured(one)
    assert source.startswith("the running kernel")
    assert found == one


def test_a_ring_that_the_kernel_does_not_make_is_described_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def refuses(entries: int, params: int) -> int:
        asked.append(entries)
        return -22

    monkeypatch.setattr("pybpfvm.uring_backend.kernel.sysring.setup", refuses)
    one = shape("")
    assert one.flags & SETUP_SQ_REWIND
    assert measured(one) == (one, "pybpfvm")
    assert asked == [8, 8]  # as it is, and without SQ_REWIND


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a pybpfvm.ring/1 document"),
        ('{"schema": "pybpfvm.doctor/1"}', "not a pybpfvm.ring/1 document"),
        (written(shape(""), flags="none"), "flags is not a list"),
        (written(shape(""), flags=["turbo"]), "unknown flag 'turbo'"),
        (written(shape(""), sq_entries=True), "sq_entries is not a number"),
        (written(shape(""), sq_entries=0), "from 1 to 32768"),
        (written(shape(""), cq_entries=1 << 17), "from 1 to 65536"),
        (written(shape(""), cq_entries=12), "12 entries are no power of two"),
        (written(shape(""), sq_off=7), "sq_off is no table"),
        (written(shape(""), cq_off={}), "head is not a number"),
        (written(shape(""), mem_bytes=-1), "mem_bytes is not a number"),
    ],
)
def test_documents_that_describe_no_ring(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parse_shape(text, "f.json")
    assert "doctor --ring" in caught.value.remedy
    assert str(caught.value).startswith("f.json")


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("rings", InputError, "'rings' says nothing of a ring"),
        ("entries", InputError, "'entries' says nothing"),
        ("entries=many", InputError, "entries is not a number"),
        ("entries=99999999999", InputError, "entries is not a number"),
        ("flags=fast", InputError, "no set-up flag is called 'fast'"),
        ("entries=0", RingError, "0 SQ entries"),
        ("flags=cqe_mixed", UnsupportedError, "CQE_MIXED"),
    ],
)
def test_set_ups_that_are_none(text: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        parse_setup(text)
