"""Arenas: memory that a program shares with user space, up to 4 GiB of pages that come and go.

A program names one arena at most. `addr_space_cast` makes a pointer into it of any value, or of a
pointer the address that user space knows it by, which is a number here. Whatever is computed from
such a pointer is one: only its low 32 bits count, guard pages follow the arena, a load from a page
that is not there gives 0, and a store to it is lost. So every access is safe, and none is bounded.
An instruction that a kernel makes one for arenas (an access, arithmetic of 64 bits) is that on all
paths: what comes there is a pointer into the arena always, or never.
Which operations a kernel's compiler knows on such memory was asked of 6.18 on x86-64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pybpfvm.bits import U32
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import FRAME_POINTER, AtomicOp
from pybpfvm.program import MapSpec, MapType
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.states.regstate import Pointer, RegType, unknown
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.transfer import write_frame_pointer
from pybpfvm.verifier.verdict import Rule

ARENA = RegType.PTR_TO_ARENA
_SINCE = (6, 9)
# What 6.18 does with signed loads and atomic operations was asked; of older ones it is not known.
_ASKED = (6, 18)
# Casts, by destination and source: the pointer that programs use, and user space's address.
_TO_POINTER, _TO_ADDRESS = 0x1, 0x10000
_NO_FETCH = frozenset({AtomicOp.FETCH_AND, AtomicOp.FETCH_OR, AtomicOp.FETCH_XOR})


def refused_arenas(env: Environment) -> Iterator[tuple[int, Refused]]:
    """What is wrong with the arenas that the code names, and where."""
    arenas = ((pc, spec) for pc, spec in env.named_maps() if spec.type == MapType.ARENA)
    for number, (pc, spec) in enumerate(arenas):
        refused = _refused(env, spec, number)
        if refused is not None:
            yield pc, refused


def _refused(env: Environment, spec: MapSpec, number: int) -> Refused | None:
    """Why the program may not name this arena, before which it names so many; None if it may."""
    if env.rules.version < _SINCE:
        text = ".".join(map(str, env.rules.version))
        return forbidden(
            Rule.ARENA,
            f"map {spec.name} is an arena",
            reason=f"Linux {text} has none: they came with {_SINCE[0]}.{_SINCE[1]}",
            suggestion="keep what is shared in the value of an array",
        )
    if not (env.options.caps.bpf and env.options.caps.perfmon):
        return forbidden(
            Rule.CAPABILITY,
            "CAP_BPF and CAP_PERFMON are required to use arena",
            reason="programs see addresses of an arena",
            suggestion="load it with both capabilities, as root or by setcap",
        )
    if number:
        return forbidden(
            Rule.ARENA,
            "Only one arena per program",
            reason=f"map {spec.name} is the second that the program names",
            suggestion="put into one what both hold",
        )
    return None


def prepare_cast(env: Environment, insn: Insn, pc: int) -> Callable[[State], None]:
    """The step of addr_space_cast."""
    dst, src, cast = insn.dst, insn.src, insn.imm & U32
    if cast not in (_TO_POINTER, _TO_ADDRESS):
        raise forbidden(
            Rule.ILLEGAL_INSN,
            "addr_space_cast insn can only convert between address space 1 and 0",
            reason=f"this one is from {cast & 0xFFFF} to {cast >> 16}",
        )
    if not env.has_arena:
        raise forbidden(
            Rule.ARENA,
            "addr_space_cast insn can only be used in a program that has an associated arena",
            reason="the program names no map of type BPF_MAP_TYPE_ARENA",
            suggestion="use the arena's variable in the program, its address is enough",
        )
    if dst == FRAME_POINTER:
        return write_frame_pointer

    def step(state: State) -> None:
        regs = state.frame.regs
        check_readable(regs[src], src)
        regs[dst] = Pointer(ARENA, pc) if cast == _TO_POINTER else unknown(pc)

    return step


def check_load(env: Environment, *, signed: bool) -> None:
    """A load from an arena."""
    if signed and env.rules.version < _ASKED:
        raise unsupported("sign-extending loads from an arena on kernels before 6.18")


def check_atomic(env: Environment, number: int, op: AtomicOp) -> None:
    """An atomic operation on an arena, through register `number`."""
    if env.rules.version < _ASKED:
        raise unsupported("atomic operations on an arena on kernels before 6.18")
    if op in _NO_FETCH:
        raise forbidden(
            Rule.NOT_A_POINTER,
            f"BPF_ATOMIC stores into R{number} arena is not allowed",
            reason="x86-64 has no instruction that does this and gives the old value, and a loop "
            "of compare and exchange can not survive a page that is missing",
            suggestion="use compare and exchange in a loop of the program's own",
        )
