"""Timers and work queues in map values: what runs later, and how it is set up.

Each lies in a field of a map value, `bpf_timer` or `bpf_wq`. Its callback gets the map, a key and
the value, whenever it is run: nothing of the program that set it is left then. So callbacks are
explored by themselves, once for each function and map (`Deferred`). A work queue's may sleep.
Kernel Documentation/bpf/map_*.rst, helpers' manual page; order and messages as the running kernel
answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pybpfvm.btf.kernelfields import FieldKind
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import helper_of
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.privileges.leaks import check_conceals
from pybpfvm.verifier.refusal import forbidden, possibly_null, unsupported
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    Pointer,
    Reg,
    RegType,
    clobbered,
    unknown,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

if TYPE_CHECKING:
    from pybpfvm.program import MapSpec
    from pybpfvm.verifier.environment import Environment


@dataclass(frozen=True, slots=True)
class Deferred:
    """A callback that runs later: the pc where it starts, the index of its map, and whether it
    may sleep."""

    entry: int
    map_index: int
    sleepable: bool

    def arguments(self, spec: MapSpec) -> list[Reg]:
        """r1 to r3 as it finds them."""
        kinds = (RegType.CONST_PTR_TO_MAP, RegType.PTR_TO_MAP_KEY, RegType.PTR_TO_MAP_VALUE)
        return [Pointer(kind, -1, map=spec, map_index=self.map_index) for kind in kinds]


def timer_init(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_timer_init(timer, map, flags)."""
    regs = state.frame.regs
    timer = _timer(env, state, insn)
    check_readable(regs[2], 2)
    _check_map(timer, regs[2], "timer")
    _anything(env, state, 3)
    _done(state, pc)


def timer_set_callback(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_timer_set_callback(timer, function)."""
    timer = _timer(env, state, insn)
    check_readable(state.frame.regs[2], 2)
    _defer(env, timer, state.frame.regs[2], sleepable=False)
    _done(state, pc)


def timer_start(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_timer_start(timer, nanoseconds, flags)."""
    _timer(env, state, insn)
    _anything(env, state, 2)
    _anything(env, state, 3)
    _done(state, pc)


def timer_cancel(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_timer_cancel(timer)."""
    _timer(env, state, insn)
    _done(state, pc)


def wq_init(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_wq_init(work, map, flags)."""
    work = _work(env, state)
    _check_map(work, state.frame.regs[2], "workqueue")
    _number(state, 3)
    _done(state, pc)


def wq_set_callback(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_wq_set_callback_impl(work, function, flags, ...)."""
    work = _work(env, state)
    function = state.frame.regs[2]
    _number(state, 3)
    _defer(env, work, function, sleepable=True)
    _done(state, pc)


def wq_start(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_wq_start(work, flags)."""
    _work(env, state)
    _number(state, 2)
    _done(state, pc)


def _timer(env: Environment, state: State, insn: Insn) -> Reg:
    helper = helper_of(env, insn)
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    text = f"R1 type={reg.type.value} expected=map_value"
    return _field(env, reg, FieldKind.TIMER, text, f"bpf_{helper.name} takes a timer")


def _work(env: Environment, state: State) -> Reg:
    reg = state.frame.regs[1]
    text = "arg#0 doesn't point to a map value"
    return _field(env, reg, FieldKind.WORKQUEUE, text, "work queues are in map values")


def _field(env: Environment, reg: Reg, kind: FieldKind, mismatch: str, reason: str) -> Reg:
    """`reg` is to the one field of the kind in a map value."""
    if reg.type is RegType.PTR_TO_MAP_VALUE_OR_NULL:
        raise possibly_null(mismatch, 1, reg)
    if reg.type is not RegType.PTR_TO_MAP_VALUE:
        raise forbidden(Rule.TIMER, mismatch, reason=reason, culprit=reg)
    spec, name = reg.map, kind.value
    assert spec is not None
    if reg.var.mask:
        raise forbidden(
            Rule.TIMER,
            f"R1 doesn't have constant offset. {name} has to be at the constant offset",
            reason="which field it is must be known",
            culprit=reg,
        )
    if not spec.btf_value_type_id:
        raise forbidden(
            Rule.TIMER,
            f"map '{spec.name}' has to have BTF in order to use {name}",
            reason="only the type of the value says where its fields are",
            culprit=reg,
        )
    place = next((one.offset for one in env.fields(spec) if one.kind is kind), None)
    at = reg.off + reg.var.value
    if place is None:
        raise forbidden(
            Rule.TIMER,
            f"map '{spec.name}' has no valid {name}",
            reason=f"no field of the values of {spec.name} is a struct {name}",
            culprit=reg,
        )
    if at != place:
        raise forbidden(
            Rule.TIMER,
            f"off {at} doesn't point to 'struct {name}' that is at {place}",
            reason="it is set up by its own address",
            culprit=reg,
        )
    if reg.map_index < 0:
        raise unsupported(f"a {name} in a map of a map of maps")
    return reg


def _check_map(field: Reg, reg: Reg, what: str) -> None:
    if reg.type is not RegType.CONST_PTR_TO_MAP:
        text = f"R2 type={reg.type.value} expected=map_ptr"
        if reg.type in NON_NULL:
            raise possibly_null(text, 2, reg)
        raise forbidden(Rule.TIMER, text, reason="r2 is the map that the value is in", culprit=reg)
    if reg.map is not field.map or reg.map_index != field.map_index:
        raise forbidden(
            Rule.TIMER,
            f"{what} pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0",
            reason="the kernel keeps the map alive for the callback: it must be the value's own",
            suggestion="give the map that the value was looked up in",
            culprit=reg,
        )


def _defer(env: Environment, field: Reg, function: Reg, *, sleepable: bool) -> None:
    if function.type is not RegType.PTR_TO_FUNC:
        raise forbidden(
            Rule.TIMER,
            f"R2 type={function.type.value} expected=func",
            reason="r2 is what is to be called",
            culprit=function,
        )
    if not env.options.caps.perfmon:
        raise unsupported("callbacks that run later, for loaders without CAP_PERFMON")
    env.deferred.setdefault(Deferred(function.subprog, field.map_index, sleepable))


def _anything(env: Environment, state: State, number: int) -> None:
    reg = state.frame.regs[number]
    check_readable(reg, number)
    check_conceals(env, reg, f"R{number} leaks addr into helper function")


def _number(state: State, number: int) -> None:
    reg = state.frame.regs[number]
    check_readable(reg, number)
    if reg.type is not RegType.SCALAR_VALUE:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"R{number} is not a scalar",
            reason="flags are a number",
            culprit=reg,
        )


def _done(state: State, pc: int) -> None:
    state.frame.regs[0:6] = [unknown(pc), *[clobbered(pc)] * 5]
    state.certain = False
