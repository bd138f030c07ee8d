"""bpf(2) of the running kernel through ctypes: the oracle that tests and campaigns ask.

Nothing here is needed to load, verify or run anything. Numbers and layouts are those of the
kernel's UAPI (bpf(2) and linux/bpf.h). Everything is native byte order.

A refused program is an answer (`LoadResult`); any other refused call raises OSError with the
kernel's errno, named in its text.
"""

from __future__ import annotations

import ctypes
import errno as _errno
import os
import platform
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pybpfvm.bits import align_up
from pybpfvm.errors import errno_name
from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

# Commands of bpf(2).
_MAP_CREATE = 0
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_MAP_DELETE_ELEM = 3
_MAP_GET_NEXT_KEY = 4
_PROG_LOAD = 5
_PROG_TEST_RUN = 10
_BTF_LOAD = 18
_MAP_LOOKUP_AND_DELETE_ELEM = 21
_MAP_FREEZE = 22

# Program types by the kernel's numbers (those the oracle uses).
PROG_TYPE_SOCKET_FILTER = 1
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_TRACING = 26
PROG_TYPE_STRUCT_OPS = 27
PROG_TYPE_EXT = 28
PROG_TYPE_LSM = 29
PROG_TYPE_SYSCALL = 31

# Attach types by the kernel's numbers: what a program of type TRACING or LSM is of a function.
TRACE_RAW_TP = 23
TRACE_FENTRY = 24
TRACE_FEXIT = 25
MODIFY_RETURN = 26
LSM_MAC = 27
TRACE_ITER = 28

BPF_F_ANY_ALIGNMENT = 1 << 1
BPF_F_SLEEPABLE = 1 << 4

_LOG_BYTES = 1 << 16
_LOG_BYTES_MAX = 1 << 26
_LOAD_ATTEMPTS = 5  # the verifier answers EAGAIN when a signal is pending

_libc = ctypes.CDLL(None, use_errno=True)


class Fd:
    """An owned file descriptor: closed by `close`, at the end of a `with`, or when forgotten."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        """The descriptor's number, -1 once closed."""
        return self.number

    def close(self) -> None:
        """Give the descriptor back; twice is fine."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __enter__(self) -> Fd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fd({self.number})"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the kernel said to a program: `fd` if it took it, else None and `errno` (positive).

    `log` is the verifier's text, "" when none was asked for.
    """

    fd: Fd | None
    errno: int
    log: str

    @property
    def accepted(self) -> bool:
        """Whether the program was loaded."""
        return self.fd is not None

    def close(self) -> None:
        """Unload the program, if it was loaded."""
        if self.fd is not None:
            self.fd.close()

    def __enter__(self) -> LoadResult:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class TestRun:
    """Result of BPF_PROG_TEST_RUN: 32-bit `retval`, packet and context afterwards, mean ns."""

    __test__ = False  # the name is the kernel's; pytest must not collect it

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int


def available() -> str | None:
    """None if programs can be loaded here, else the reason why not, in one line."""
    machine = platform.machine()
    if os.uname().sysname != "Linux" or machine not in _SYSCALL_NUMBERS:
        return f"bpf(2) is known on Linux x86_64 and aarch64 only, this is {machine}"
    insns = encode([Insn(SPECS["mov64_k"]), Insn(SPECS["exit"])], big_endian=sys.byteorder == "big")
    with prog_load(insns, prog_type=PROG_TYPE_SYSCALL, flags=BPF_F_SLEEPABLE) as result:
        if result.accepted:
            return None
        if result.errno in (_errno.EPERM, _errno.EACCES):
            return "bpf(2) is not permitted here: it needs root (CAP_BPF) outside a container"
        return f"bpf(2) does not work here: {errno_name(result.errno)}"


def possible_cpus(path: str = "/sys/devices/system/cpu/possible") -> int:
    """Number of possible CPUs: how many values a per-CPU map element has."""
    ranges = Path(path).read_text(encoding="ascii").strip().split(",")
    return max(int(part.rpartition("-")[2]) for part in ranges) + 1


def prog_load(
    insns: bytes,
    *,
    prog_type: int,
    license: str = "GPL",
    name: str = "",
    log_level: int = 0,
    log_bytes: int = _LOG_BYTES,
    flags: int = 0,
    expected_attach_type: int = 0,
    map_fds: Sequence[int] = (),
    btf_fd: int = 0,
    func_info: bytes = b"",
    line_info: bytes = b"",
    attach_btf_id: int = 0,
    attach_prog_fd: int = 0,
) -> LoadResult:
    """BPF_PROG_LOAD of encoded instructions.

    `map_fds` is the fd_array that LDDW with Pseudo.MAP_IDX* indexes. `log_level` is the kernel's
    (1 errors and path, 2 every state, 4 statistics only); the log buffer starts with `log_bytes`
    and grows until the log fits. `func_info` are 8-byte and `line_info` 16-byte records.
    `attach_btf_id`: what the program is attached to, by its id in the kernel's own BTF, or in that
    of the program `attach_prog_fd`.
    """
    license_text = license.encode() + b"\0"
    fd_array = struct.pack(f"={len(map_fds)}i", *map_fds)
    for _ in range(_LOAD_ATTEMPTS):
        log = ctypes.create_string_buffer(log_bytes) if log_level else None
        attr = struct.pack(
            "=IIQQIIQII16sIIIIQIIQIIIIQQIIiI",
            prog_type,
            len(insns) // 8,
            _address(insns),
            _address(license_text),
            log_level,
            log_bytes if log_level else 0,
            ctypes.addressof(log) if log is not None else 0,
            0,  # kern_version
            flags,
            _name(name),
            0,  # ifindex
            expected_attach_type,
            btf_fd,
            8 if func_info else 0,
            _address(func_info),
            len(func_info) // 8,
            16 if line_info else 0,
            _address(line_info),
            len(line_info) // 16,
            attach_btf_id,
            attach_prog_fd,
            0,  # core_relo_cnt
            _address(fd_array),
            0,  # core_relos
            0,  # core_relo_rec_size
            0,  # log_true_size
            0,  # prog_token_fd
            0,  # fd_array_cnt: 0 means that only the entries used are looked at
        )
        result, error, _ = _bpf(_PROG_LOAD, attr)
        if error == _errno.ENOSPC and log_level and log_bytes < _LOG_BYTES_MAX:
            return prog_load(
                insns,
                prog_type=prog_type,
                license=license,
                name=name,
                log_level=log_level,
                log_bytes=log_bytes * 8,
                flags=flags,
                expected_attach_type=expected_attach_type,
                map_fds=map_fds,
                btf_fd=btf_fd,
                func_info=func_info,
                line_info=line_info,
                attach_btf_id=attach_btf_id,
                attach_prog_fd=attach_prog_fd,
            )
        if error != _errno.EAGAIN:
            break
    text = log.value.decode("utf-8", "replace") if log is not None else ""
    return LoadResult(Fd(result) if result >= 0 else None, error, text)


def prog_test_run(
    fd: Fd,
    data_in: bytes = b"",
    *,
    ctx: bytes = b"",
    repeat: int = 0,
    flags: int = 0,
    data_out_bytes: int | None = None,
) -> TestRun:
    """BPF_PROG_TEST_RUN: run a loaded program on a packet and/or a context.

    `repeat` must be 0 for program types without packets. Output buffers are as large as the
    inputs, unless `data_out_bytes` says more. Raises OSError.
    """
    out_bytes = len(data_in) if data_out_bytes is None else data_out_bytes
    data_out = ctypes.create_string_buffer(out_bytes) if out_bytes else None
    # Syscall programs get their context back in ctx_in itself and refuse a ctx_out.
    ctx_buffer = ctypes.create_string_buffer(ctx, len(ctx)) if ctx else None
    attr = struct.pack(
        "=IIIIQQIIIIQQIIII",
        fd.fileno(),
        0,
        len(data_in),
        out_bytes,
        _address(data_in),
        ctypes.addressof(data_out) if data_out is not None else 0,
        repeat,
        0,
        len(ctx),
        0,
        ctypes.addressof(ctx_buffer) if ctx_buffer is not None else 0,
        0,
        flags,
        0,
        0,
        0,
    )
    result, error, attr = _bpf(_PROG_TEST_RUN, attr)
    if result < 0:
        raise _os_error(error, "BPF_PROG_TEST_RUN")
    retval, _, data_size_out = struct.unpack_from("=III", attr, 4)
    (duration_ns,) = struct.unpack_from("=I", attr, 36)
    data = data_out.raw[:data_size_out] if data_out is not None else b""
    return TestRun(retval, data, ctx_buffer.raw if ctx_buffer is not None else b"", duration_ns)


def map_create(
    map_type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    flags: int = 0,
    name: str = "",
    inner_map_fd: int = 0,
    btf_fd: int = 0,
    btf_key_type_id: int = 0,
    btf_value_type_id: int = 0,
    map_extra: int = 0,
) -> Fd:
    """BPF_MAP_CREATE. Raises OSError."""
    attr = struct.pack(
        "=IIIIIII16sIIIIIQII",
        map_type,
        key_size,
        value_size,
        max_entries,
        flags,
        inner_map_fd,
        0,  # numa_node
        _name(name),
        0,  # ifindex
        btf_fd,
        btf_key_type_id,
        btf_value_type_id,
        0,  # btf_vmlinux_value_type_id
        map_extra,
        0,  # value_type_btf_obj_fd
        0,  # map_token_fd
    )
    result, error, _ = _bpf(_MAP_CREATE, attr)
    if result < 0:
        raise _os_error(error, "BPF_MAP_CREATE")
    return Fd(result)


def map_value_bytes(value_size: int, *, per_cpu: bool) -> int:
    """Size of what the element calls below transfer for one value."""
    return align_up(value_size, 8) * possible_cpus() if per_cpu else value_size


def map_lookup_elem(fd: Fd, key: bytes, value_bytes: int, flags: int = 0) -> bytes:
    """BPF_MAP_LOOKUP_ELEM; `value_bytes` as `map_value_bytes` computes it. Raises OSError."""
    return _read_elem(_MAP_LOOKUP_ELEM, "BPF_MAP_LOOKUP_ELEM", fd, key, value_bytes, flags)


def map_lookup_and_delete_elem(fd: Fd, key: bytes, value_bytes: int, flags: int = 0) -> bytes:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM: also pops queues and stacks (empty key). Raises OSError."""
    command, text = _MAP_LOOKUP_AND_DELETE_ELEM, "BPF_MAP_LOOKUP_AND_DELETE_ELEM"
    return _read_elem(command, text, fd, key, value_bytes, flags)


def map_update_elem(fd: Fd, key: bytes, value: bytes, flags: int = 0) -> None:
    """BPF_MAP_UPDATE_ELEM. Raises OSError."""
    attr = struct.pack("=IIQQQ", fd.fileno(), 0, _address(key), _address(value), flags)
    result, error, _ = _bpf(_MAP_UPDATE_ELEM, attr)
    if result < 0:
        raise _os_error(error, "BPF_MAP_UPDATE_ELEM")


def map_delete_elem(fd: Fd, key: bytes) -> None:
    """BPF_MAP_DELETE_ELEM. Raises OSError."""
    attr = struct.pack("=IIQQQ", fd.fileno(), 0, _address(key), 0, 0)
    result, error, _ = _bpf(_MAP_DELETE_ELEM, attr)
    if result < 0:
        raise _os_error(error, "BPF_MAP_DELETE_ELEM")


def map_get_next_key(fd: Fd, key: bytes | None, key_size: int) -> bytes:
    """BPF_MAP_GET_NEXT_KEY (None: the first). Raises OSError, ENOENT after the last."""
    out = ctypes.create_string_buffer(key_size)
    attr = struct.pack("=IIQQQ", fd.fileno(), 0, _address(key or b""), ctypes.addressof(out), 0)
    result, error, _ = _bpf(_MAP_GET_NEXT_KEY, attr)
    if result < 0:
        raise _os_error(error, "BPF_MAP_GET_NEXT_KEY")
    return out.raw


def map_freeze(fd: Fd) -> None:
    """BPF_MAP_FREEZE. Raises OSError."""
    result, error, _ = _bpf(_MAP_FREEZE, struct.pack("=I", fd.fileno()).ljust(32, b"\0"))
    if result < 0:
        raise _os_error(error, "BPF_MAP_FREEZE")


def btf_load(btf: bytes, *, log_level: int = 0) -> LoadResult:
    """BPF_BTF_LOAD of a whole .BTF section."""
    log = ctypes.create_string_buffer(_LOG_BYTES) if log_level else None
    attr = struct.pack(
        "=QQIIIIII",
        _address(btf),
        ctypes.addressof(log) if log is not None else 0,
        len(btf),
        _LOG_BYTES if log is not None else 0,
        log_level,
        0,  # btf_log_true_size
        0,  # btf_flags
        0,  # btf_token_fd
    )
    result, error, _ = _bpf(_BTF_LOAD, attr)
    text = log.value.decode("utf-8", "replace") if log is not None else ""
    return LoadResult(Fd(result) if result >= 0 else None, error, text)


def _read_elem(command: int, text: str, fd: Fd, key: bytes, value_bytes: int, flags: int) -> bytes:
    out = ctypes.create_string_buffer(value_bytes)
    attr = struct.pack("=IIQQQ", fd.fileno(), 0, _address(key), ctypes.addressof(out), flags)
    result, error, _ = _bpf(command, attr)
    if result < 0:
        raise _os_error(error, text)
    return out.raw


def _bpf(command: int, attr: bytes) -> tuple[int, int, bytes]:
    """(result, errno or 0, attr afterwards) of the system call."""
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        return -1, _errno.ENOSYS, attr
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = _libc.syscall(number, command, buffer, len(attr))
    return result, ctypes.get_errno() if result < 0 else 0, buffer.raw


def _address(data: bytes) -> int:
    """Where the bytes lie; the caller keeps them alive. 0 for none."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0 if data else 0


def _name(name: str) -> bytes:
    """The 16-byte name field: characters that the kernel refuses become underscores."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    return text.encode()[:15]


def _os_error(error: int, call: str) -> OSError:
    return OSError(error, f"{call}: {errno_name(error)}")
