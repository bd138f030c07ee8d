"""What must hold of a program's code before anything is known of values.

Every instruction can be reached, jumps stay inside their function and lead to instructions,
functions end in an exit or a jump, calls neither recurse nor nest too deep, and the frames of a
call chain fit the stack together. All walks use worklists: no input exhausts recursion.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator

from pybpfvm.bits import align_up
from pybpfvm.btf.types import (
    Btf,
    Const,
    Enum,
    Enum64,
    Func,
    FuncProto,
    Int,
    Restrict,
    Typedef,
    Volatile,
)
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.opcodes import MAX_FRAMES, STACK_BYTES, Kind
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.exceptioncallback import callback_start
from pybpfvm.verifier.verdict import Finding, Rule
from pybpfvm.verifier.verdict import Kind as Why

MAX_INSNS = 1_000_000
_ENDS = frozenset({Kind.EXIT, Kind.GOTO})
_JUMPS = frozenset({Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO})
_BRANCHES = frozenset({Kind.JUMP, Kind.MAY_GOTO})


def successors(env: Environment, pc: int) -> tuple[int, ...]:
    """Where control may go from `pc` inside its function (calls go on behind themselves)."""
    insn = env.code[pc]
    kind = insn.spec.kind
    after = pc + insn.slots
    if kind in _BRANCHES:
        return (after, after + insn.off)
    if kind not in _ENDS:
        return (after,)
    return (after + insn.off,) if kind is Kind.GOTO else ()


def code_errors(env: Environment) -> Iterator[Finding]:
    """The broken rules of control flow, in order of the code; the first suffices to reject."""
    code = env.code
    if not code:
        yield _finding(env, Rule.FALL_THROUGH, 0, "no instructions", "a program needs an exit")
        return
    slots = env.program.slots
    if slots > MAX_INSNS:
        yield Finding(
            Rule.BUDGET,
            Why.LIMIT,
            0,
            f"program has {slots} insns, at most {MAX_INSNS} are allowed",
            reason="the kernel loads no larger programs",
        )
        return
    starts = sorted(env.functions)
    bounds = dict(zip(starts, [*starts[1:], slots], strict=True))
    broken = False
    for pc in env.pcs(*_JUMPS, Kind.CALL_LOCAL):
        insn = code[pc]
        if insn.spec.kind in _JUMPS:
            start = starts[bisect_right(starts, pc) - 1]
            target = pc + 1 + insn.off
            if not start <= target < bounds[start]:
                broken = True
                text = f"jump out of range from insn {pc} to {target}"
                inside = 0 <= target < slots
                why = Why.POLICY if inside else Why.UNSAFE
                yield _finding(env, Rule.BAD_JUMP, pc, text, "it leaves its function", why)
            elif target not in code:
                broken = True
                text = f"jump into the middle of ldimm64 insn {target}"
                yield _finding(env, Rule.BAD_JUMP, pc, text, "lddw takes two slots")
        elif target_pc(insn, pc) not in env.functions:
            broken = True
            text = f"call to invalid destination {target_pc(insn, pc)}"
            yield _finding(env, Rule.BAD_JUMP, pc, text, "no function starts there")
    for start in starts:
        last = _last_pc(env, bounds[start])
        if code[last].spec.kind not in _ENDS:
            broken = True
            yield _finding(
                env,
                Rule.FALL_THROUGH,
                last,
                "last insn is not an exit or jmp",
                "control would run on behind the end of the function",
                Why.UNSAFE if bounds[start] == slots else Why.POLICY,
            )
    if broken:
        return
    yield from _unreachable(env)
    yield from _early_ends(env)
    yield from _deep_calls(env)


def _last_pc(env: Environment, end: int) -> int:
    """The instruction that ends at slot `end`: one slot long, or an lddw of two."""
    return end - 1 if end - 1 in env.code else end - 2


def _unreachable(env: Environment) -> Iterator[Finding]:
    seen: set[int] = set()
    called = {pc: target for calls in calls_of(env).values() for pc, target in calls}
    callback = callback_start(env)
    work = [0] if callback < 0 else [0, callback]
    while work:
        pc = work.pop()
        if pc in seen:
            continue
        seen.add(pc)
        work.extend(successors(env, pc))
        if pc in called:
            work.append(called[pc])
    if seen.isdisjoint(env.by_kind.get(Kind.EXIT, ())):
        last = max(seen)
        text = f"infinite loop detected at insn {last}"
        yield _finding(env, Rule.INFINITE_LOOP, last, text, "no exit can be reached")
        return
    if len(seen) != len(env.code):
        first = next(pc for pc in env.code if pc not in seen)
        yield _finding(
            env,
            Rule.UNREACHABLE,
            first,
            f"unreachable insn {first}",
            "no path from the start leads here, and kernels refuse dead code",
        )


def calls_of(env: Environment) -> dict[int, list[tuple[int, int]]]:
    """For each function, its (call pc, called function), callbacks included."""
    if env.calls is not None:
        return env.calls
    starts = sorted(env.functions)
    calls: dict[int, list[tuple[int, int]]] = {start: [] for start in starts}
    for pc in env.pcs(Kind.CALL_LOCAL, Kind.LDDW):
        target = target_pc(env.code[pc], pc)
        if target is not None and target in calls:
            calls[starts[bisect_right(starts, pc) - 1]].append((pc, target))
    env.calls = calls
    return calls


def reaching(env: Environment, pcs: Iterable[int]) -> frozenset[int]:
    """The functions that hold an instruction of `pcs`, or call a function that does."""
    starts = sorted(env.functions)
    work = [starts[bisect_right(starts, pc) - 1] for pc in pcs]
    callers: dict[int, list[int]] = {}
    if work:
        for function, calls in calls_of(env).items():
            for _, callee in calls:
                callers.setdefault(callee, []).append(function)
    found: set[int] = set()
    while work:
        function = work.pop()
        if function not in found:
            found.add(function)
            work += callers.get(function, ())
    return frozenset(found)


def direct_calls(env: Environment) -> dict[int, list[tuple[int, int]]]:
    """`calls_of` without callbacks that run later, whose frames lie on no other's: those that are
    known to, or any that may while the program was not explored."""
    found = calls_of(env)
    if not any(found.values()):
        return found
    known = {one.entry for one in env.deferred} - env.called_back
    any_ = not env.deferred and _defers(env)

    def called(pc: int, target: int) -> bool:
        return env.code[pc].spec.kind is Kind.CALL_LOCAL or not (any_ or target in known)

    return {function: [one for one in calls if called(*one)] for function, calls in found.items()}


def _defers(env: Environment) -> bool:
    """Whether the program may set callbacks that run later."""
    return Kind.CALL_KFUNC in env.by_kind or any(
        env.profile.helpers.get(env.code[pc].imm) == "timer_set_callback"
        for pc in env.pcs(Kind.CALL)
    )


def _deep_calls(env: Environment) -> Iterator[Finding]:
    """Recursion, and call chains of more than 8 frames."""
    order = _callees_first(env)
    if isinstance(order, int):
        yield _recursion(env, order)
        return
    calls = direct_calls(env)
    depth: dict[int, int] = {}
    for function in order:
        depth[function] = 1 + max((depth[callee] for _, callee in calls[function]), default=0)
    if depth[0] > MAX_FRAMES:
        yield _finding(
            env,
            Rule.CALL_DEPTH,
            0,
            f"the call stack of {depth[0]} frames is too deep",
            f"at most {MAX_FRAMES} functions may be active at once",
        )


def _recursion(env: Environment, pc: int) -> Finding:
    return _finding(
        env,
        Rule.RECURSION,
        pc,
        f"the call stack of {MAX_FRAMES + 1} frames is too deep",
        "a function calls itself, directly or through others",
    )


def _callees_first(env: Environment, root: int = 0) -> list[int] | int:
    """The functions reached from the main one, or `root`, callees before callers; the pc of a
    call that closes a cycle if there is one."""
    calls = direct_calls(env)
    order: list[int] = []
    status: dict[int, int] = {root: 1}  # 1: on the walk, 2: done
    walk = [(root, iter(calls[root]))]
    while walk:
        function, remaining = walk[-1]
        for pc, callee in remaining:
            if status.get(callee) == 1:
                return pc
            if callee not in status:
                status[callee] = 1
                walk.append((callee, iter(calls[callee])))
                break
        else:
            status[function] = 2
            order.append(function)
            walk.pop()
    return order


def _early_ends(env: Environment) -> Iterator[Finding]:
    """Functions that tail calls or packet loads may end with a number return one, as BTF says."""
    starts = sorted(env.functions)
    for pc in env.pcs(Kind.LD_ABS, Kind.LD_IND, Kind.CALL):
        insn = env.code[pc]
        if insn.spec.kind is not Kind.CALL:
            name = "LD_ABS"
        elif env.profile.helpers.get(insn.imm) == "tail_call":
            name = "tail_call"
        else:
            continue
        start = starts[bisect_right(starts, pc) - 1]
        if start == 0:
            continue
        number = _returns_number(env.obj.btf, env.functions[start].btf_type_id)
        if number is None:
            text = f"{name} is not allowed in subprogs without BTF"
            yield _finding(env, Rule.ILLEGAL_INSN, pc, text, "it ends the function with a number")
        elif not number:
            text = f"{name} is only allowed in functions that return 'int'."
            yield _finding(env, Rule.ILLEGAL_INSN, pc, text, "it ends the function with a number")


def _returns_number(btf: Btf | None, type_id: int) -> bool | None:
    """Whether a function's result is an integer; None if its type is not known."""
    if btf is None or not type_id or type_id not in btf:
        return None
    function = btf.type(type_id)
    proto = btf.type(function.type_id) if isinstance(function, Func) else None
    if not isinstance(proto, FuncProto):
        return None
    result = btf.type(proto.return_id)
    for _ in range(_MAX_NAMES):
        if not isinstance(result, (Typedef, Const, Volatile, Restrict)):
            break
        result = btf.type(result.type_id)
    return isinstance(result, (Int, Enum, Enum64)) and result.size <= 8


_MAX_NAMES = 64

# With a JIT, the kernel counts each frame in steps of 16 bytes.
_FRAME_STEP = 16
_TAIL_CALL_STACK = 256


# Programs whose functions get stacks of their own, since Linux 6.13; functions that use less share
# one. Iterators, of the tracing type, do not.
_OWN_STACKS_SINCE = (6, 13)
_OWN_STACK_TYPES = frozenset({"kprobe", "tracepoint", "perf_event", "raw_tracepoint", "tracing"})
_OWN_STACK_BYTES = 64


def deepest_stack(env: Environment, alone: Container[int] = ()) -> int:
    """Bytes of stack of the deepest call chain, as far as the functions were seen to use it. Of
    the program's own chains the functions in `alone` do not count."""
    calls = direct_calls(env)
    deepest = 0
    for root in (0, *(one.entry for one in env.deferred)):
        order = _callees_first(env, root)
        if isinstance(order, int):
            return 0
        depth: dict[int, int] = {}
        for function in order:
            own = align_up(env.stack_bytes.get(function, 0), _FRAME_STEP)
            if root == 0 and function in alone:
                own = 0
            depth[function] = own + max((depth[callee] for _, callee in calls[function]), default=0)
        deepest = max(deepest, depth[root])
    return deepest


def _with_own_stacks(env: Environment) -> frozenset[int]:
    """The functions whose frames the kernel puts on stacks of their own: none of a program that
    makes tail calls, and none that may run later, on top of another."""
    profile = env.profile
    if profile.type_name not in _OWN_STACK_TYPES or env.rules.version < _OWN_STACKS_SINCE:
        return frozenset()
    if env.program.section.startswith("iter") or any(
        profile.helpers.get(env.code[pc].imm) == "tail_call" for pc in env.pcs(Kind.CALL)
    ):
        return frozenset()
    alone = {
        function
        for function, used in env.stack_bytes.items()
        if align_up(used, _FRAME_STEP) >= _OWN_STACK_BYTES
    }
    for later in env.deferred:
        order = _callees_first(env, later.entry)
        if not isinstance(order, int):
            alone.difference_update(order)
    return frozenset(alone)


def stack_errors(env: Environment, tail_calls: frozenset[int]) -> Iterator[Finding]:
    """Frames that do not fit the stack together, once it is known how deep each reaches.

    `tail_calls` are the functions that make tail calls: callers of such may use 256 bytes only.
    """
    for root in (0, *(one.entry for one in env.deferred)):
        order = _callees_first(env, root)
        if isinstance(order, int):
            yield _recursion(env, order)
            return
    deepest = deepest_stack(env, _with_own_stacks(env))
    if deepest > STACK_BYTES:
        frames = sum(1 for used in env.stack_bytes.values() if used)
        yield _finding(
            env,
            Rule.STACK_DEPTH,
            0,
            f"combined stack size of {frames} calls is {deepest}. Too large",
            f"all frames of a call chain share {STACK_BYTES} bytes",
        )
        return
    yield from _tail_call_stacks(env, tail_calls)


def _tail_call_stacks(env: Environment, tail_calls: frozenset[int]) -> Iterator[Finding]:
    order = _callees_first(env)
    if isinstance(order, int) or not tail_calls:
        return
    calls = direct_calls(env)
    reaching = set(tail_calls)
    for function in order:
        if any(callee in reaching for _, callee in calls[function]):
            reaching.add(function)
    # The deepest stack above each function, callers first.
    above = {0: 0}
    for function in reversed(order):
        if function not in above:
            continue
        own = align_up(env.stack_bytes.get(function, 0), _FRAME_STEP)
        for pc, callee in calls[function]:
            total = above[function] + own
            if callee in reaching and total >= _TAIL_CALL_STACK:
                yield _finding(
                    env,
                    Rule.STACK_DEPTH,
                    pc,
                    "tail_calls are not allowed when call stack of previous frames is "
                    f"{total} bytes. Too large",
                    f"below functions that make tail calls, {_TAIL_CALL_STACK} bytes may be used",
                )
                return
            above[callee] = max(above.get(callee, 0), total)


# Broken control flow does harm, limits are limits; dead code is merely forbidden.
_KINDS = {
    Rule.BAD_JUMP: Why.UNSAFE,
    Rule.FALL_THROUGH: Why.UNSAFE,
    Rule.RECURSION: Why.UNSAFE,
    Rule.INFINITE_LOOP: Why.UNSAFE,
    Rule.CALL_DEPTH: Why.LIMIT,
    Rule.STACK_DEPTH: Why.LIMIT,
}


def _finding(
    env: Environment, rule: Rule, pc: int, message: str, reason: str, kind: Why | None = None
) -> Finding:
    kind = kind or _KINDS.get(rule, Why.POLICY)
    return Finding(rule, kind, pc, message, reason=reason, source=env.program.line_at(pc))
