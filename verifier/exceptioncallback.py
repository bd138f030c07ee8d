"""The exception callback of a program: what bpf_throw calls with what is thrown, once nothing else
of the program runs.

A declaration tag of the main function names it (`exception_callback:NAME`, as libbpf's
__exception_cb() writes it). Nothing calls it: it is verified by itself, as a function of one
number that ends the program.
"""

from __future__ import annotations

from pybpfvm.btf.types import BtfKind, Func, FuncLinkage, FuncProto, Int
from pybpfvm.loader.tags import exception_callbacks
from pybpfvm.program import Subprog
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.verdict import Rule


def callback_start(env: Environment) -> int:
    """The pc where it begins; -1 if the program has none, or none that is right."""
    found = _callback(env)
    return found.start if found is not None else -1


def check_callback(env: Environment) -> None:
    """The program names one callback at most, a global function of one number."""
    names = _names(env)
    if not names:
        return
    if len(names) > 1:
        raise _wrong("multiple exception callback tags for main subprog", "one is called")
    found, btf = _callback(env), env.obj.btf
    if found is None or btf is None:
        raise _wrong(
            f"exception callback '{names[0]}' could not be found in BTF",
            "no function of the program, but the main one, has this name",
        )
    func = btf.type(found.btf_type_id)
    if not isinstance(func, Func) or func.linkage is not FuncLinkage.GLOBAL:
        raise _wrong(
            f"exception callback '{names[0]}' must have global linkage",
            "it is verified by itself, as global functions are",
        )
    proto = btf.type(func.type_id)
    params = proto.params if isinstance(proto, FuncProto) else ()
    if len(params) != 1 or not _is_number(env, params[0].type_id):
        raise _wrong(
            "exception cb only supports single integer argument",
            "it gets what was thrown",
        )


def _wrong(message: str, reason: str) -> Refused:
    return forbidden(Rule.KFUNC_NOT_ALLOWED, message, reason=reason)


def _names(env: Environment) -> tuple[str, ...]:
    main = env.functions.get(0)
    if env.obj.btf is None or main is None or not main.btf_type_id:
        return ()
    return exception_callbacks(env.obj.btf, main.btf_type_id)


def _callback(env: Environment) -> Subprog | None:
    names, btf = _names(env), env.obj.btf
    if not names or btf is None:
        return None
    for start, one in env.functions.items():
        if start and one.btf_type_id in btf and btf.name(one.btf_type_id) == names[0]:
            return one
    return None


def _is_number(env: Environment, type_id: int) -> bool:
    assert env.obj.btf is not None
    found = env.obj.btf.type(env.obj.btf.resolve(type_id))
    return isinstance(found, Int) or env.obj.btf.kind(env.obj.btf.resolve(type_id)) in (
        BtfKind.ENUM,
        BtfKind.ENUM64,
    )
