"""libubpf through ctypes: where it is, and the functions of its API (ubpf.h) that we call."""

from __future__ import annotations

import ctypes
import ctypes.util
import os

from pybpfvm.errors import InputError
from pybpfvm.sharedlibrary import Prototypes, opened

VARIABLE = "PYBPFVM_UBPF"

HELPER = ctypes.CFUNCTYPE(ctypes.c_uint64, *(ctypes.c_uint64,) * 5)
BOUNDS_CHECK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
# Variadic for C; of what is printed we take the format only.
ERROR_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
# (context, its bytes, stack, its bytes): what ubpf_compile_ex makes.
COMPILED = ctypes.CFUNCTYPE(
    ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t
)
EXTENDED_JIT_MODE = 0  # the stack is the caller's
MAX_HELPERS = 64  # ubpf_register refuses larger indexes

_VM, _ERROR = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_FUNCTIONS: Prototypes = {
    "ubpf_create": (_VM, ()),
    "ubpf_destroy": (None, (_VM,)),
    "ubpf_register": (ctypes.c_int, (_VM, ctypes.c_uint, ctypes.c_char_p, HELPER)),
    "ubpf_load": (ctypes.c_int, (_VM, ctypes.c_char_p, ctypes.c_uint32, _ERROR)),
    "ubpf_set_error_print": (None, (_VM, ERROR_PRINT)),
    "ubpf_toggle_bounds_check": (ctypes.c_bool, (_VM, ctypes.c_bool)),
    "ubpf_register_data_bounds_check": (ctypes.c_int, (_VM, ctypes.c_void_p, BOUNDS_CHECK)),
    "ubpf_set_instruction_limit": (ctypes.c_int, (_VM, ctypes.c_uint32, ctypes.c_void_p)),
    "ubpf_compile_ex": (ctypes.c_void_p, (_VM, _ERROR, ctypes.c_int)),
    "ubpf_exec_ex": (
        ctypes.c_int,
        (
            _VM,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_uint64),
            ctypes.c_void_p,
            ctypes.c_size_t,
        ),
    ),
}


def found() -> str | None:
    """The library that would be used: a path, or a name that the loader knows. None: there is
    none."""
    return os.environ.get(VARIABLE) or ctypes.util.find_library("ubpf")


def library() -> ctypes.CDLL:
    """libubpf, its functions declared. Raises InputError."""
    name = found()
    if name is None:
        raise InputError(
            "there is no libubpf here",
            where="engine ubpf",
            remedy=f"install it, or let {VARIABLE} name the file",
        )
    return opened(
        name,
        _FUNCTIONS,
        where="engine ubpf",
        unreadable=f"let {VARIABLE} name a libubpf",
        too_old="use a libubpf that runs programs on a stack of the caller's (2024 on)",
    )


_free = ctypes.CDLL(None)["free"]  # an object of our own: argtypes set here concern nobody else
_free.argtypes = (ctypes.c_void_p,)
_free.restype = None


def taken(message: ctypes.c_void_p) -> str:
    """The text that an errmsg points to, which is freed."""
    if not message.value:
        return "it does not say why"
    text = ctypes.string_at(message.value).decode("utf-8", "replace").strip()
    _free(message)
    return text
