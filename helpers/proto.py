"""The kernel's vocabulary of helper arguments and results, and one row per helper.

Both readers of a row trust only what it says: the verifier reads the types, engines call `impl`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from pybpfvm.helpers.context import HelperContext


class ArgType(Enum):
    """What an argument must be. Names are the kernel's, without the ARG_ prefix."""

    DONTCARE = auto()  # no argument
    ANYTHING = auto()  # any initialised scalar
    CONST_MAP_PTR = auto()
    PTR_TO_MAP_KEY = auto()  # key_size readable bytes
    PTR_TO_MAP_VALUE = auto()  # value_size readable bytes
    PTR_TO_UNINIT_MAP_VALUE = auto()  # value_size bytes the helper fills
    PTR_TO_MEM = auto()  # readable, sized by the next CONST_SIZE*
    PTR_TO_MEM_OR_NULL = auto()
    PTR_TO_UNINIT_MEM = auto()  # the helper fills it, sized by the next CONST_SIZE*
    CONST_SIZE = auto()  # size of the memory argument beside it, > 0
    CONST_SIZE_OR_ZERO = auto()
    CONST_ALLOC_SIZE_OR_ZERO = auto()  # constant size of what a RINGBUF_MEM result holds
    PTR_TO_CTX = auto()  # the unmodified context pointer
    PTR_TO_ALLOC_MEM = auto()  # a reserved ring-buffer record
    PTR_TO_SPIN_LOCK = auto()
    PTR_TO_PERCPU_BTF_ID = auto()
    PTR_TO_BTF_ID = auto()
    PTR_TO_FUNC = auto()  # a static subprogram (callback)
    PTR_TO_STACK_OR_NULL = auto()
    PTR_TO_CONST_STR = auto()  # NUL-terminated, in a read-only frozen map
    PTR_TO_LONG = auto()
    PTR_TO_INT = auto()
    PTR_TO_TIMER = auto()
    PTR_TO_DYNPTR = auto()


class RetType(Enum):
    """What r0 is afterwards."""

    INTEGER = auto()
    VOID = auto()
    PTR_TO_MAP_VALUE_OR_NULL = auto()
    PTR_TO_ALLOC_MEM_OR_NULL = auto()
    PTR_TO_MEM_OR_BTF_ID = auto()
    PTR_TO_MEM_OR_BTF_ID_OR_NULL = auto()
    PTR_TO_BTF_ID = auto()


class Gate(Enum):
    """Capability a loader needs before the helper is offered."""

    NONE = auto()
    CAP_BPF = auto()
    CAP_PERFMON = auto()


HelperImpl = Callable[[HelperContext, int, int, int, int, int], int]


@dataclass(frozen=True, slots=True)
class Helper:
    """One helper: its kernel name without `bpf_` where the kernel has that prefix, its
    prototype, and what it does.

    `impl` gets the context and the five argument registers (unsigned 64-bit, whatever was in
    them) and returns r0 (any int; masked to 64 bits by the engine). It raises MemoryFault when a
    memory argument is bad, BadArgument when a handle is, and returns -errno for what the kernel
    answers with an errno. None: known to the verifier, not executable ("unsupported").
    `sleeps`: only for sleepable programs. `doc`: one line and its source.
    """

    name: str
    args: tuple[ArgType, ...]
    ret: RetType
    impl: HelperImpl | None
    doc: str
    gate: Gate = Gate.NONE
    sleeps: bool = False
    gpl_only: bool = False
