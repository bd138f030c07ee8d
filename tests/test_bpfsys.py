"""bpf(2) through ctypes. What needs no kernel comes first."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from pybpfvm import bpfsys
from pybpfvm.program import MapType

EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)
R0_IS_7 = struct.pack("=BBhi", 0xB7, 0, 0, 7)

needs_bpf = pytest.mark.skipif(bpfsys.available() is not None, reason=str(bpfsys.available()))


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,8-11\n", 12)])
def test_possible_cpus(tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / "possible").write_text(text)
    assert bpfsys.possible_cpus(str(tmp_path / "possible")) == count


def test_an_unknown_machine_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    reason = bpfsys.available()
    assert reason is not None
    assert "pdp11" in reason
    assert bpfsys.prog_load(EXIT, prog_type=1).errno == errno.ENOSYS


def test_an_fd_is_closed_once() -> None:
    read, write = os.pipe()
    os.close(write)
    with bpfsys.Fd(read) as fd:
        assert fd.fileno() == read
    assert fd.fileno() == -1
    fd.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


@pytest.mark.kernel_bpf
@needs_bpf
def test_load_and_run() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with bpfsys.prog_load(
        R0_IS_7 + EXIT, prog_type=bpfsys.PROG_TYPE_XDP, name="a name, odd"
    ) as loaded:
        assert loaded.accepted
        assert loaded.fd is not None
        ran = bpfsys.prog_test_run(loaded.fd, bytes(range(64)), repeat=3)
        assert (ran.retval, ran.data) == (7, bytes(range(64)))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.kernel_bpf
@needs_bpf
def test_a_syscall_program_gives_its_context_back() -> None:
    store = struct.pack("=BBhi", 0x62, 1, 0, 0x41414141)  # *(u32 *)(r1 + 0) = ...
    with bpfsys.prog_load(
        store + R0_IS_7 + EXIT,
        prog_type=bpfsys.PROG_TYPE_SYSCALL,
        flags=bpfsys.BPF_F_SLEEPABLE,
    ) as loaded:
        assert loaded.fd is not None
        assert bpfsys.prog_test_run(loaded.fd, ctx=bytes(8)).ctx == b"AAAA" + bytes(4)
        with pytest.raises(OSError, match="BPF_PROG_TEST_RUN: EINVAL"):
            bpfsys.prog_test_run(loaded.fd, ctx=bytes(8), repeat=2)


@pytest.mark.kernel_bpf
@needs_bpf
def test_a_refused_program_has_errno_and_log() -> None:
    with bpfsys.prog_load(R0_IS_7, prog_type=1, log_level=1) as refused:
        assert not refused.accepted
        assert refused.errno == errno.EINVAL
        assert "last insn" in refused.log


@pytest.mark.kernel_bpf
@needs_bpf
def test_the_log_grows_until_it_fits() -> None:
    code = R0_IS_7 * 3000 + EXIT
    with bpfsys.prog_load(code, prog_type=1, log_level=2, log_bytes=256) as loaded:
        assert loaded.accepted
        assert len(loaded.log) > 60_000
        assert "0: R1=ctx()" in loaded.log
        assert "processed 3001 insns" in loaded.log


@pytest.mark.kernel_bpf
@needs_bpf
def test_map_elements() -> None:
    with bpfsys.map_create(MapType.HASH, 4, 8, 2, name="h") as fd:
        key, value = b"keyy", b"8 bytes."
        with pytest.raises(OSError, match="BPF_MAP_LOOKUP_ELEM: ENOENT"):
            bpfsys.map_lookup_elem(fd, key, 8)
        bpfsys.map_update_elem(fd, key, value)
        assert bpfsys.map_lookup_elem(fd, key, 8) == value
        assert bpfsys.map_get_next_key(fd, None, 4) == key
        with pytest.raises(OSError, match="BPF_MAP_GET_NEXT_KEY: ENOENT"):
            bpfsys.map_get_next_key(fd, key, 4)
        with pytest.raises(OSError, match="EEXIST"):
            bpfsys.map_update_elem(fd, key, value, flags=1)
        assert bpfsys.map_lookup_and_delete_elem(fd, key, 8) == value
        with pytest.raises(OSError, match="BPF_MAP_DELETE_ELEM: ENOENT"):
            bpfsys.map_delete_elem(fd, key)
        bpfsys.map_freeze(fd)
        with pytest.raises(OSError, match="EPERM"):
            bpfsys.map_update_elem(fd, key, value)


@pytest.mark.kernel_bpf
@needs_bpf
def test_per_cpu_values_come_for_every_cpu() -> None:
    size = bpfsys.map_value_bytes(4, per_cpu=True)
    with bpfsys.map_create(MapType.PERCPU_ARRAY, 4, 4, 1) as fd:
        assert size == 8 * bpfsys.possible_cpus()
        assert bpfsys.map_lookup_elem(fd, bytes(4), size) == bytes(size)


@pytest.mark.kernel_bpf
@needs_bpf
def test_refused_maps_and_btf() -> None:
    with pytest.raises(OSError, match="BPF_MAP_CREATE: EINVAL"):
        bpfsys.map_create(MapType.ARRAY, 3, 4, 1)
    refused = bpfsys.btf_load(b"not btf", log_level=1)
    assert not refused.accepted
    assert refused.log
