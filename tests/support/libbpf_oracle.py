"""libbpf of this machine, through ctypes: what it makes of an object, to compare with ours."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PROG_TYPE_SOCKET_FILTER = 1


class _OpenOpts(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("unused", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
    ]


@dataclass(frozen=True, slots=True)
class Linked:
    """What libbpf loaded: the bytes of each program, and the names of maps by their fd."""

    programs: dict[str, bytes]
    maps: dict[int, str]


def unavailable() -> str | None:
    """None if libbpf can be asked, else why not."""
    return None if _library() is not None else "no libbpf.so here"


def load(path: str, *, btf: str = "", skip: tuple[str, ...] = ()) -> Linked | str:
    """Open, relocate and load `path` with libbpf, as socket filters; its log if that fails.

    `btf` is a file to resolve CO-RE against; programs in `skip` are not loaded.
    """
    lib = _library()
    assert lib is not None
    with _messages(lib) as messages:
        opts = _OpenOpts(sz=ctypes.sizeof(_OpenOpts), btf_custom_path=btf.encode() or None)
        obj = lib.bpf_object__open_file(path.encode(), ctypes.byref(opts))
        if not obj:
            return "\n".join(messages) or "open failed"
        try:
            for program in _each(lib.bpf_object__next_program, obj):
                name = lib.bpf_program__name(program).decode()
                lib.bpf_program__set_type(program, PROG_TYPE_SOCKET_FILTER)
                lib.bpf_program__set_autoload(program, name not in skip)
            if lib.bpf_object__load(obj):
                return "\n".join(messages) or "load failed"
            programs = {}
            for program in _each(lib.bpf_object__next_program, obj):
                size = lib.bpf_program__insn_cnt(program) * 8
                code = ctypes.string_at(lib.bpf_program__insns(program), size)
                programs[lib.bpf_program__name(program).decode()] = code
            maps = {
                lib.bpf_map__fd(found): lib.bpf_map__name(found).decode()
                for found in _each(lib.bpf_object__next_map, obj)
            }
            return Linked({n: c for n, c in programs.items() if n not in skip}, maps)
        finally:
            lib.bpf_object__close(obj)


def gen_object(out: str, *paths: str) -> str:
    """Link objects into one, as `bpftool gen object` does; why libbpf can not, "" if it did."""
    lib = _library()
    assert lib is not None
    with _messages(lib) as messages:
        linker = lib.bpf_linker__new(out.encode(), None)
        if not linker:
            return "\n".join(messages) or "no linker"
        try:
            for path in paths:
                if lib.bpf_linker__add_file(linker, path.encode(), None):
                    return "\n".join(messages) or f"{path} was not added"
            if lib.bpf_linker__finalize(linker):
                return "\n".join(messages) or "not finished"
        finally:
            lib.bpf_linker__free(linker)
    return ""


def _each(step: Any, obj: int) -> Iterator[int]:
    found = step(obj, None)
    while found:
        yield found
        found = step(obj, found)


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@contextmanager
def _messages(lib: Any) -> Iterator[list[str]]:
    """The warnings that libbpf prints meanwhile."""
    messages: list[str] = []
    libc = ctypes.CDLL(None)

    def note(level: int, form: bytes, arguments: int) -> int:
        if level == 0:
            text = ctypes.create_string_buffer(1 << 16)
            # A va_list reaches its callee as a pointer on x86-64 and aarch64.
            libc.vsnprintf(text, len(text), form, ctypes.c_void_p(arguments))
            messages.append(text.value.decode("utf-8", "replace").strip())
        return 0

    callback = _PRINT(note)
    lib.libbpf_set_print(callback)
    try:
        yield messages
    finally:
        lib.libbpf_set_print(_PRINT(0))


def _library() -> Any:
    name = ctypes.util.find_library("bpf")
    if name is None:
        return None
    lib = ctypes.CDLL(name)
    pointer = ctypes.c_void_p
    for function in (
        "bpf_object__open_file",
        "bpf_object__next_program",
        "bpf_object__next_map",
        "bpf_program__insns",
        "bpf_linker__new",
    ):
        getattr(lib, function).restype = pointer
    lib.bpf_object__open_file.argtypes = [ctypes.c_char_p, pointer]
    lib.bpf_linker__new.argtypes = [ctypes.c_char_p, pointer]
    lib.bpf_linker__add_file.argtypes = [pointer, ctypes.c_char_p, pointer]
    lib.bpf_linker__finalize.argtypes = [pointer]
    lib.bpf_linker__free.argtypes = [pointer]
    lib.bpf_object__next_program.argtypes = [pointer, pointer]
    lib.bpf_object__next_map.argtypes = [pointer, pointer]
    for function in ("load", "close"):
        getattr(lib, f"bpf_object__{function}").argtypes = [pointer]
    for function in ("name", "insns", "insn_cnt"):
        getattr(lib, f"bpf_program__{function}").argtypes = [pointer]
    lib.bpf_program__insn_cnt.restype = ctypes.c_size_t
    lib.bpf_program__name.restype = ctypes.c_char_p
    lib.bpf_program__set_type.argtypes = [pointer, ctypes.c_int]
    lib.bpf_program__set_autoload.argtypes = [pointer, ctypes.c_bool]
    lib.bpf_map__fd.argtypes = [pointer]
    lib.bpf_map__name.argtypes = [pointer]
    lib.bpf_map__name.restype = ctypes.c_char_p
    return lib
