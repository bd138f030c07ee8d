"""Programs that take the place of a global function of another one (BPF_PROG_TYPE_EXT, freplace).

Such a program begins as the function does, with its parameters, and is judged by the rules of the
program that has it. That one was verified with nothing known of the function but its prototype, and
whether it moves the packet: so both must agree. libbpf's documentation, "Program Types and ELF
Sections"; Linux Documentation/bpf/verifier.rst.

Kernels compare pointed-to structs by name. Here a struct that is larger than the function's, and a
pointer that may be NULL there and not here, are refused as well: callers give what the function
takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from pybpfvm.btf.types import Btf, BtfKind, Func, FuncProto, Ptr
from pybpfvm.errors import InputError
from pybpfvm.isa.opcodes import Kind
from pybpfvm.program import Replaced, Subprog
from pybpfvm.verifier.environment import Environment, environment
from pybpfvm.verifier.globals import packet_movers
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.kernelobjects.btfwalk import kind_text
from pybpfvm.verifier.kernelobjects.exceptions import throwers
from pybpfvm.verifier.kernelobjects.params import Parameter, Takes, parameters
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.verdict import Rule

_STRUCTS = (BtfKind.STRUCT, BtfKind.UNION)
_NUMBERS = (BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64)


def check_replacement(env: Environment) -> None:
    """That the program can take the place of the function that it replaces, if it does. Refused."""
    replaced = env.program.replaces
    if replaced is None:
        return
    of = environment(replaced.program, replaced.obj, env.profile, env.options)
    own = env.functions[0]
    taken = _parameters_of(of, replaced)
    for why in _differences(env, own, replaced):
        raise _mismatch(why)
    mine = parameters(env, own)
    for number, (wanted, given) in enumerate(zip(mine, taken, strict=True)):
        _check_parameter(number, wanted, given, own, replaced.function)
    _check_effects(env, of, replaced)


def _parameters_of(of: Environment, replaced: Replaced) -> tuple[Parameter, ...]:
    """What callers of the function give it."""
    name, start = replaced.function.name, replaced.function.start
    if replaced.obj.btf is None or not replaced.function.btf_type_id:
        raise _mismatch(f"the target of {name}() has no BTF, which says what the function takes")
    if start == 0 and is_btf_typed(of.profile):
        raise unsupported(f"replacing a whole {of.profile.name} program")
    if not replaced.function.is_global:
        raise _static(f"{name}() is static: its callers were verified together with it")
    taken = parameters(of, of.functions[start])
    if start == 0 and taken != (Parameter(Takes.CTX),):
        raise _static(f"the prototype of {name}() is not that of a {of.profile.name} program")
    return taken


def _differences(env: Environment, own: Subprog, replaced: Replaced) -> Iterator[str]:
    """Where the two prototypes differ, in the kernel's order."""
    btf, other = env.obj.btf, replaced.obj.btf
    function = replaced.function
    if btf is None or not own.btf_type_id:
        yield "Program extension requires BTF"
        return
    assert other is not None
    mine, its = _prototype(btf, own.btf_type_id), _prototype(other, function.btf_type_id)
    if not own.is_global:
        yield f"{own.name}() is not a global function"
    if len(mine.params) != len(its.params):
        yield (
            f"{own.name}() has {len(mine.params)} args while {function.name}() has "
            f"{len(its.params)} args"
        )
        return
    one, two = btf.resolve(mine.return_id), other.resolve(its.return_id)
    if btf.kind(one) is not other.kind(two):
        yield (
            f"Return type {kind_text(btf, one)} of {own.name}() doesn't match type "
            f"{kind_text(other, two)} of {function.name}()"
        )
    for number, (a, b) in enumerate(zip(mine.params, its.params, strict=True)):
        one, two = btf.resolve(a.type_id), other.resolve(b.type_id)
        what = f"arg{number} in {own.name}()"
        if btf.kind(one) is not other.kind(two):
            yield f"{what} is {kind_text(btf, one)} while {function.name}() has " + (
                kind_text(other, two)
            )
        elif btf.kind(one) in _NUMBERS:
            if btf.size(one) != other.size(two):
                yield (
                    f"{what} has size {btf.size(one)} while {function.name}() has {other.size(two)}"
                )
        else:
            yield from _pointers(btf, one, other, two, what, function.name)


def _pointers(btf: Btf, one: int, other: Btf, two: int, what: str, name: str) -> Iterator[str]:
    """Where two parameters of one kind that are no numbers differ."""
    a, b = btf.type(one), other.type(two)
    if not isinstance(a, Ptr) or not isinstance(b, Ptr):
        yield f"{what} has unrecognized type"
        return
    inner, outer = btf.resolve(a.type_id), other.resolve(b.type_id)
    if btf.kind(inner) not in _STRUCTS or other.kind(outer) not in _STRUCTS:
        yield f"{what} is not a pointer to context"
    elif btf.name(inner) != other.name(outer):
        yield f"{what} (struct {btf.name(inner)} *) doesn't match {name}() (struct " + (
            f"{other.name(outer)} *)"
        )


def _check_parameter(
    number: int, wanted: Parameter, given: Parameter, own: Subprog, function: Subprog
) -> None:
    """Callers give what the program relies on: what kernels do not compare."""
    what = f"arg{number} in {own.name}()"
    if wanted.takes is not given.takes:
        raise _mismatch(f"{what} is {wanted.takes.value}, in {function.name}() {given.takes.value}")
    if wanted.size > given.size:
        raise _mismatch(
            f"{what} points to {wanted.size} bytes, callers of {function.name}() give {given.size}"
        )
    if given.nullable and not wanted.nullable:
        raise _mismatch(f"{what} can not be NULL, callers of {function.name}() may give NULL")


def _check_effects(env: Environment, of: Environment, replaced: Replaced) -> None:
    """The program does nothing that callers of the function are not prepared for."""
    helpers = env.profile.helpers
    if any(helpers.get(env.code[pc].imm) == "tail_call" for pc in env.pcs(Kind.CALL)):
        raise unsupported("tail calls of programs that replace functions")
    if 0 in throwers(env) or replaced.function.start in throwers(of):
        raise unsupported("exceptions in programs that replace functions, or in what they replace")
    if 0 in packet_movers(env) and replaced.function.start not in packet_movers(of):
        raise forbidden(
            Rule.ATTACH_TARGET,
            "Extension program changes packet data, while original does not",
            reason=f"callers of {replaced.function.name}() go on with their packet pointers",
            suggestion="call no helper that moves the packet, or let the function call one, too",
        )


def _prototype(btf: Btf, func_id: int) -> FuncProto:
    try:
        found = btf.type(func_id)
        proto = btf.type(found.type_id) if isinstance(found, Func) else None
    except InputError:
        proto = None
    if not isinstance(proto, FuncProto):
        raise unsupported("a program that replaces a function, whose type is not known")
    return proto


def _mismatch(message: str) -> Refused:
    return forbidden(
        Rule.ATTACH_TARGET,
        message,
        reason="what takes the place of a function must be declared as the function is",
        suggestion="copy the function's declaration, types included",
    )


def _static(reason: str) -> Refused:
    return forbidden(
        Rule.ATTACH_TARGET,
        "Cannot replace static functions",
        reason=reason,
        suggestion="replace a global function that is not inlined (noinline)",
    )
