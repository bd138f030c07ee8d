"""The kernel's vocabulary of helper arguments and results, and one row per helper.

Both readers of a row trust only what it says: the verifier reads the types, engines call `impl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from pybpfvm.helpers.context import HelperContext


class ArgType(Enum):
    """What an argument must be. Names are the kernel's, without the ARG_ prefix."""

    # Looked up for every argument of every call that is verified; there is one object of each.
    __hash__ = object.__hash__

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
    PTR_TO_FIXED_SIZE_MEM = auto()  # as many readable bytes as the row says
    PTR_TO_CTX = auto()  # the unmodified context pointer
    PTR_TO_CTX_OR_NULL = auto()
    PTR_TO_ALLOC_MEM = auto()  # a reserved ring-buffer record
    PTR_TO_SPIN_LOCK = auto()
    PTR_TO_PERCPU_BTF_ID = auto()
    PTR_TO_BTF_ID = auto()
    PTR_TO_BTF_ID_OR_NULL = auto()
    PTR_TO_BTF_ID_SOCK_COMMON = auto()  # a socket of any kind
    PTR_TO_SOCK_COMMON = auto()  # one that the verifier knows by itself
    PTR_TO_SOCKET_OR_NULL = auto()  # a full socket
    PTR_TO_MAP_VALUE_OR_NULL = auto()  # value_size readable bytes
    PTR_TO_FUNC = auto()  # a static subprogram (callback)
    PTR_TO_STACK_OR_NULL = auto()
    PTR_TO_CONST_STR = auto()  # NUL-terminated, in a read-only frozen map
    PTR_TO_LONG = auto()
    PTR_TO_INT = auto()
    PTR_TO_TIMER = auto()
    PTR_TO_DYNPTR = auto()
    PTR_TO_KPTR = auto()  # a field of a map value that holds a pointer of the kernel's


class RetType(Enum):
    """What r0 is afterwards."""

    INTEGER = auto()
    VOID = auto()
    PTR_TO_MAP_VALUE_OR_NULL = auto()
    PTR_TO_ALLOC_MEM_OR_NULL = auto()
    PTR_TO_MEM_OR_BTF_ID = auto()
    PTR_TO_MEM_OR_BTF_ID_OR_NULL = auto()
    PTR_TO_BTF_ID = auto()
    PTR_TO_BTF_ID_OR_NULL = auto()
    PTR_TO_MAP_VALUE = auto()
    PTR_TO_SOCKET_OR_NULL = auto()
    PTR_TO_SOCK_COMMON_OR_NULL = auto()
    PTR_TO_TCP_SOCK_OR_NULL = auto()
    PTR_TO_DYNPTR_MEM_OR_NULL = auto()


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

    What else a verifier must know, with arguments counted from 1: `args_by_type` are the arguments
    for the program types (or "type:attach type") that take others; `free_for` names those of them
    that need no GPL. `writes`: memory arguments that are changed although they must be readable.
    `fixed_sizes`: bytes of the PTR_TO_FIXED_SIZE_MEM. `takes_packet`: packet memory will do for
    memory arguments; `moves_packet`: packet pointers are stale afterwards. `acquires`: the result
    must be released; `releases`: the argument that is given back; `casts`: the result is the same
    object as argument 1, and goes when that goes. `length`: the result is at most the size
    of the memory argument, or an errno. `checked_args`: only the first of a variable number.
    `steady`: the result is always the same in one environment, so an engine may ask once.
    """

    name: str
    args: tuple[ArgType, ...]
    ret: RetType
    impl: HelperImpl | None
    doc: str
    sleeps: bool = False
    gpl_only: bool = False
    args_by_type: Mapping[str, tuple[ArgType, ...]] = field(default_factory=dict)
    free_for: frozenset[str] = frozenset()
    writes: frozenset[int] = frozenset()
    fixed_sizes: Mapping[int, int] = field(default_factory=dict)
    takes_packet: bool = False
    moves_packet: bool = False
    acquires: bool = False
    releases: int = 0
    casts: bool = False
    length: bool = False
    checked_args: int = 5
    steady: bool = False

    def args_for(self, program_type: str, attach_type: int) -> tuple[ArgType, ...]:
        """The arguments that a program of this type passes."""
        if not self.args_by_type:
            return self.args
        own = self.args_by_type.get(f"{program_type}:{attach_type}")
        return own or self.args_by_type.get(program_type, self.args)

    def needs_gpl(self, program_type: str, attach_type: int) -> bool:
        """Whether only programs under a licence compatible with the GPL may call it."""
        free = {program_type, f"{program_type}:{attach_type}"} & self.free_for
        return self.gpl_only and not free
