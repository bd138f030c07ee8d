"""Exploring all paths of a program, depth first; the only part that keeps mutable state.

Paths that fork wait on a stack. At prune points (jumps, their targets, calls) a path ends if a
state that was explored there to the end covers it; now and then its state is stored for others.
A stored state counts the paths below it that have not ended: only when there is none is all known
of it that pruning needs. A path that comes back, unchanged, to a stored state it comes from runs
forever. So whatever this loop ends on, without an error, has been followed to its exits on every
path, and every loop was bounded.

Callbacks are the exception to the last: a helper calls them a bounded number of times, whatever
they do, so a path that comes back to the same callback of the same call ends when the state it
began with before covers it, in all its numbers. Numbers that change from round to round are
widened to "unknown". May_goto and iterators are alike, see `backedges`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count

from pybpfvm.interrupts import breathe, uninterrupted
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import MAX_FRAMES, Kind, Operand
from pybpfvm.verifier import arena, memory
from pybpfvm.verifier.calls import call_helper, forget_packet, helper_of, reference_leak
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.domains.scalar import Scalar, is_subsumed_by
from pybpfvm.verifier.environment import MAX_ERRORS, Environment
from pybpfvm.verifier.exceptioncallback import callback_start
from pybpfvm.verifier.explaining.describe import registers
from pybpfvm.verifier.jumps import prepare_jump
from pybpfvm.verifier.kernelobjects import exceptions, rcu
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.kernelobjects.btfhelpers import struct_id
from pybpfvm.verifier.kernelobjects.btfptr import check_attachment
from pybpfvm.verifier.kernelobjects.kfuncs import Handler, call_kfunc, kfunc_name
from pybpfvm.verifier.kernelobjects.params import check_arguments, initial, parameters
from pybpfvm.verifier.packetload import packet_load
from pybpfvm.verifier.prepared import Prepared
from pybpfvm.verifier.privileges.leaks import check_conceals, spills_more
from pybpfvm.verifier.privileges.speculation import followed
from pybpfvm.verifier.pruning.backedges import (
    NO_BOUNDS,
    Bounds,
    Stored,
    close,
    forgotten,
    keeps,
    resolve,
    went_on,
)
from pybpfvm.verifier.pruning.maygoto import prepare_may_goto
from pybpfvm.verifier.pruning.prune import Compare, Comparison
from pybpfvm.verifier.pruning.screen import Screen, differ
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.resources import (
    deferred,
    exchange,
    graph,
    iterator,
    locking,
    percpu,
    slices,
)
from pybpfvm.verifier.resources.lock import LESS, check_call_unlocked, check_unlocked
from pybpfvm.verifier.states.regstate import (
    NOT_INIT,
    ZERO,
    Pointer,
    Reg,
    RegType,
    clobbered,
    mark_precise,
    scalar,
    unknown,
)
from pybpfvm.verifier.states.stack import ObjectSlot, Slot
from pybpfvm.verifier.states.state import NO_REGIONS, Callback, Frame, State
from pybpfvm.verifier.transfer import prepare_alu, prepare_lddw
from pybpfvm.verifier.usermemory import usermem
from pybpfvm.verifier.usermemory.origin import CopiedSlot
from pybpfvm.verifier.verdict import Finding, Rule
from pybpfvm.verifier.verdict import Kind as Why

# A step changes the state and gives the pc where it goes on, -1 if the path ends.
Step = Callable[[State], int]

# Helpers with rules of their own. Whoever adds one handles the whole call.
HELPER_SPECIAL: Mapping[str, Handler] = {
    "kptr_xchg": exchange.kptr_xchg,
    "per_cpu_ptr": percpu.per_cpu_ptr,
    "spin_lock": locking.spin_lock,
    "spin_unlock": locking.spin_unlock,
    "this_cpu_ptr": percpu.this_cpu_ptr,
    "timer_cancel": deferred.timer_cancel,
    "timer_init": deferred.timer_init,
    "timer_set_callback": deferred.timer_set_callback,
    "timer_start": deferred.timer_start,
}

_END = -1
_ALL, _EXPLORED, _EXACT = Compare.ALL, Compare.EXPLORED, Compare.EXACT
_SCALAR, _STACK = RegType.SCALAR_VALUE, RegType.PTR_TO_STACK
_ALU, _LDDW, _JUMP, _CALL, _EXIT = Kind.ALU, Kind.LDDW, Kind.JUMP, Kind.CALL, Kind.EXIT
# How seldom states are stored, and when a stored one that covers nothing is dropped.
_STORE_JUMPS, _STORE_INSNS = 2, 8
_LOOP_JUMPS, _LOOP_INSNS = 20, 100
_KEEP_HITS, _KEEP_MISSES, _KEEP_BOUNDED = 3, 3, 64
_MAX_PENDING = 8192
# How often time and memory are looked at; how many prepared instructions are kept.
_CHECK_INSNS = 2048
_STATES_INSN = 4  # states that an instruction may leave behind, about
# How far further errors are looked for: so many times the way to the first, and so many more.
_FURTHER_TIMES, _FURTHER_INSNS = 4, 4096
_MAX_STEPS = 100_000


class Explorer:
    """Explores one function and those it calls. After `run`: the findings, and what was counted.

    `entry` is the main function's, or that of a global function: such are explored by themselves
    and not where they are called; so is a callback that runs `later`. `processed` are the
    instructions that the budget was used for, `prepared` what is known of the code already,
    `until` the time (time.monotonic) to give up. `looked_at` is where the budgets were last looked
    at; Ctrl-C is heard there, if signals wait (`pybpfvm.interrupts`).
    """

    def __init__(
        self,
        env: Environment,
        entry: int = 0,
        processed: int = 0,
        prepared: Prepared | None = None,
        *,
        until: float = math.inf,
        later: deferred.Deferred | None = None,
    ) -> None:
        self.env = env
        self._later = later
        self.entry = entry
        self.errors: list[Finding] = []
        self.inconclusive: Finding | None = None
        self.processed = processed
        self.states = 0
        self.peak_states = 0
        self.tail_calls: set[int] = set()
        self.looked_at = entry
        self._until = until
        self._further = math.inf
        self._stored_now = 0
        self._known_errors: set[tuple[Rule, int]] = set()
        prepared = prepared or Prepared(env)
        self._live = prepared.live
        self._origins = env.by_origin
        self._uninit = env.rules.uninit_stack
        self._perfmon = env.options.caps.perfmon
        self._forks: list[tuple[int, State]] = []
        self._pending: list[tuple[int, int, State, Stored | None]] = []
        self._stored: dict[int, list[Stored]] = {}
        self._parent: Stored | None = None
        self._jumps = 0
        self._last_jumps = 0
        self._last_processed = 0
        self._steps: dict[int, Step] = {}
        self._prune_points = prepared.prune_points
        self._next_calls = prepared.next_calls
        self._turns = prepared.turns
        self._packet_movers = prepared.packet_movers
        self._sleepers = prepared.sleepers
        self._jump_pcs = prepared.jumps
        self._callback = callback_start(env)
        self._idents = count(-1, -1)  # of calls; those of references are positive

    @uninterrupted
    def run(self) -> None:
        """Explore until everything is, an error is found, or a budget is used up."""
        try:
            self._run()
        finally:
            # The steps know this object: what it holds goes now, not when cycles are looked for.
            for held in (self._steps, self._stored, self._pending, self._forks):
                held.clear()
            self._parent = None

    def _run(self) -> None:
        try:
            state = self._first_state()
        except Refused as refused:
            self._record(self.entry, State([Frame(0, -1, 0)], (), True), refused)
            return
        pc = here = self.entry
        steps, forks, points = self._steps, self._forks, self._prune_points
        jumps = self._jump_pcs
        check_at = self._next_check()
        observer = self.env.options.observer
        trace = None if observer is None else observer.step
        if observer is not None:
            observer.resumed(-1, pc, state)
        while True:
            try:
                while True:
                    if pc in points and not self._visit(pc, state):
                        if observer is not None:
                            observer.pruned(pc, state)
                        pc = _END
                    else:
                        self.processed += 1
                        if self.processed >= check_at:
                            if self._out_of_budget(pc):
                                return
                            check_at = self._next_check()
                        if pc in jumps:
                            self._jumps += 1
                        if trace is not None:
                            trace(pc, state)
                        step = steps.get(pc)
                        if step is None:
                            if len(steps) >= _MAX_STEPS:
                                steps.clear()
                            step = steps[pc] = self._prepare_followed(pc)
                        here, pc = pc, step(state)
                        if forks:
                            self._fork(here)
                        if pc == _END and observer is not None:
                            observer.ended(here, state)
                    if pc == _END:
                        self._path_ended()
                        if not self._pending:
                            return
                        here, pc, state, self._parent = self._pending.pop()
                        if observer is not None:
                            observer.resumed(here, pc, state)
            except Refused as refused:
                if observer is not None:
                    observer.refused(pc, state, refused)
                if not self._record(pc, state, refused):
                    return
                forks.clear()
                self._path_ended()
                if not self._pending:
                    return
                here, pc, state, self._parent = self._pending.pop()
                if observer is not None:
                    observer.resumed(here, pc, state)

    def _first_state(self) -> State:
        state = State([Frame(0, -1, self.entry)], (), self.entry == 0)
        if is_btf_typed(self.env.profile):
            # Nothing can be said of a program before it is known what it is attached to.
            check_attachment(self.env)
        if self._later is not None:
            spec = self.env.maps[self._later.map_index]
            state.frame.regs[1:4] = self._later.arguments(spec)
        elif self.entry == 0 and self.env.program.replaces is None:
            state.frame.regs[1] = Pointer(RegType.PTR_TO_CTX, -1)
        else:
            wanted = parameters(self.env, self.env.functions[self.entry])
            state.frame.regs[1 : 1 + len(wanted)] = initial(self.env, wanted)
        return state

    # Bookkeeping of paths.

    def _fork(self, pc: int) -> None:
        for target, state in self._forks:
            self._pending.append((pc, target, state, self._parent))
            if self._parent is not None:
                self._parent.pending += 1
            if self.env.options.observer is not None:
                self.env.options.observer.forked(pc, target, state)
        self._forks.clear()
        if len(self._pending) > _MAX_PENDING:
            raise Refused(
                Rule.BUDGET,
                f"The sequence of {_MAX_PENDING} jumps is too complex.",
                reason="too many branches wait to be explored at once",
                suggestion="split the program, or bound its loops more tightly",
                kind=Why.LIMIT,
            )

    def _path_ended(self) -> None:
        stored = self._parent
        while stored is not None:
            stored.pending -= 1
            if stored.pending:
                return
            if stored.head is stored:
                resolve(stored)
            stored = stored.parent

    def _visit(self, pc: int, state: State) -> bool:
        """Whether the path must go on from this prune point; stores its state now and then."""
        draws = pc in self._next_calls
        forced = draws or pc in self._turns or _is_round(pc, state)
        bounds = self._bounds(pc, state) if forced else NO_BOUNDS
        jumps, insns = self._jumps - self._last_jumps, self.processed - self._last_processed
        add = forced or (jumps >= _STORE_JUMPS and insns >= _STORE_INSNS)
        found = self._stored.get(pc)
        if found:
            frames = state.frames
            depth = len(frames)
            seldom = not forced and jumps < _LOOP_JUMPS and insns < _LOOP_INSNS
            for stored in reversed(found):
                screen = stored.screen
                if screen is None and not stored.pending and stored.head is None:
                    screen = stored.screen = Screen(self._live, pc, stored.state)
                if screen is not None:
                    if screen.depth == depth and screen.first(frames) and screen.passes(frames):
                        if self._compare(pc, stored, state, _EXPLORED):
                            stored.hits += 1
                            return False
                        screen.misled()
                elif stored.pending:
                    old_bounds = stored.bounds
                    if (
                        old_bounds
                        and went_on(old_bounds, bounds)
                        and keeps(stored, state)
                        and self._compare(pc, stored, state, _ALL)
                    ):
                        close(stored, state, self._parent)
                        return False
                    anew = bounds is not old_bounds and bounds.keys() != old_bounds.keys()
                    if (anew or not draws) and self._loops(pc, stored, state):
                        raise _infinite(pc, anew=anew)
                    if seldom:
                        add = False
                # It is not known yet what of the state matters.
                elif keeps(stored, state) and self._compare(pc, stored, state, _ALL):
                    stored.hits += 1
                    close(stored, state, self._parent)
                    return False
                if add:
                    stored.misses += 1
                    # Paths that leave a bounded loop after different turns meet at the next one.
                    least = _KEEP_BOUNDED if stored.bounds else _KEEP_MISSES
                    if stored.misses > stored.hits * _KEEP_HITS + least:
                        found.remove(stored)
                        stored.forget()
                        self._stored_now -= 1
        if add:
            self._store(pc, state, bounds)
        return True

    def _bounds(self, pc: int, state: State) -> Bounds:
        """What bounds loops through `pc`."""
        frame = state.frame
        found: dict[int, int] = {}
        if pc in self._next_calls:
            drawn = iterator.active(state)
            if drawn is not None:
                found[drawn.ref_id] = drawn.turns
        elif pc in self._turns:
            found[frame.ident] = frame.rounds
        if frame.callback is not None and frame.entry == pc:
            found[frame.callback.call] = frame.callback.rounds
        return found

    def _store(self, pc: int, state: State, bounds: Bounds) -> None:
        _begin_anew(state)
        new = Stored(state.copy(), self._parent, bounds)
        self._stored.setdefault(pc, []).append(new)
        self._parent = new
        if self.env.options.observer is not None:
            self.env.options.observer.stored(pc, state)
        self._last_jumps, self._last_processed = self._jumps, self.processed
        self.states += 1
        self._stored_now += 1
        self.peak_states = max(self.peak_states, self._stored_now)

    def _compare(self, pc: int, stored: Stored, new: State, mode: Compare) -> bool:
        if stored.state.speculative and not new.speculative:
            return False
        if not self._perfmon and spills_more(stored.state, new):
            return False
        origins = self._origins and mode is not _EXACT
        explored = mode is _EXPLORED
        if origins and explored and not _notes_cover(stored.state, new):
            return False
        linked = stored.linked if explored else None
        comparison = Comparison(
            self._live,
            mode,
            linked,
            uninit_stack=self._uninit,
            origins=origins,
            exact=self.env.exact_offsets,
        )
        matters = stored.screen.matters if explored and stored.screen is not None else None
        covers = comparison.covers(pc, stored.state, new, matters)
        if explored:
            stored.linked = comparison.linked
        return covers

    def _loops(self, pc: int, stored: Stored, new: State) -> bool:
        """Whether the path came back to where it was before, with nothing changed."""
        old = stored.state
        if len(old.frames) != len(new.frames):
            return False
        before_regs, now_regs = old.frame.regs, new.frame.regs
        last = stored.differs
        if last >= 0 and differ(before_regs[last], now_regs[last]):
            return False
        for number in self._live.at(pc):
            if differ(before_regs[number], now_regs[number]):
                stored.differs = number
                return False
        for before, now in zip(old.frames, new.frames, strict=True):
            if before.rounds != now.rounds:
                return False
            one, other = before.callback, now.callback
            if one is not None and other is not None and one.rounds != other.rounds:
                return False
        return self._compare(pc, stored, new, _EXACT)

    def _last_turn(self, pc: int, state: State) -> State | None:
        """The state in which this path last came to `pc` before it did now, in the same loop."""
        bounds = self._bounds(pc, state)
        for stored in reversed(self._stored.get(pc, ())):
            if (
                stored.pending
                and stored is not self._parent
                and stored.bounds.keys() == bounds.keys()
                and _same_calls(stored.state, state)
            ):
                return stored.state
        return None

    # Findings.

    def _record(self, pc: int, state: State, refused: Refused) -> bool:
        """Keep the finding; whether to go on with other paths."""
        finding = self._finding(pc, state, refused)
        if refused.kind is Why.UNSUPPORTED:
            self.inconclusive = self.inconclusive or finding
            return self.env.options.all_errors
        if (finding.rule, pc) not in self._known_errors:
            self._known_errors.add((finding.rule, pc))
            if not self.errors:
                self._further = _FURTHER_TIMES * self.processed + _FURTHER_INSNS
            self.errors.append(finding)
        go_on = self.env.options.all_errors and refused.kind is not Why.LIMIT
        return go_on and len(self.errors) < MAX_ERRORS

    def _finding(self, pc: int, state: State, refused: Refused) -> Finding:
        kind = refused.kind
        if kind is Why.UNPROVEN and refused.certain and state.certain:
            kind = Why.UNSAFE
        return Finding(
            refused.rule,
            kind,
            pc,
            refused.message,
            refused.reason,
            refused.suggestion,
            self.env.program.line_at(pc),
            feature=refused.feature,
            registers=registers(state, self.env.code.get(pc)),
        )

    def _next_check(self) -> int:
        """The count of processed instructions at which to look at the budgets again: before they
        can be used up by much, for an instruction may leave a few states behind."""
        options = self.env.options
        room = max(options.budget_states - self._stored_now - len(self._pending), 0)
        interval = min(_CHECK_INSNS, room // _STATES_INSN + 1)
        return min(self.processed + interval, options.budget_insns + 1)

    def _out_of_budget(self, pc: int) -> bool:
        """Whether a budget is used up: then the verdict says which. That errors are looked for no
        further is none."""
        self.looked_at = pc
        breathe()
        if self.processed > self._further:
            return True
        options = self.env.options
        held = self._stored_now + len(self._pending)
        if self.processed > options.budget_insns:
            message = f"BPF program is too large. Processed {self.processed - 1} insn"
            what = f"the budget of {options.budget_insns:,} instructions"
            name = "--budget-insns"
        elif held > options.budget_states:
            message = f"too many states: {held}"
            what = f"the budget of {options.budget_states:,} states kept at once"
            name = "--budget-states"
        elif time.monotonic() > self._until:
            message = f"verification takes too long. Processed {self.processed - 1} insn"
            what = f"the budget of {options.budget_seconds:,g} seconds"
            name = "--budget-seconds"
        else:
            return False
        self.inconclusive = Finding(
            Rule.BUDGET,
            Why.LIMIT,
            pc,
            message,
            reason=f"{what} is used up before every path was explored",
            suggestion=f"raise the budget (verify {name}), or give loops smaller bounds",
            source=self.env.program.line_at(pc),
        )
        return True

    # Instructions.

    def _prepare_followed(self, pc: int) -> Step:
        env = self.env
        if env.options.caps.perfmon:
            return self._prepare(pc)
        try:
            step = self._prepare(pc)
        except Refused as refused:
            step = _refusing(refused)
        return followed(env, env.code[pc], pc, step, self._forks)

    def _prepare(self, pc: int) -> Step:
        env = self.env
        insn = env.code[pc]
        kind = insn.spec.kind
        after = pc + insn.slots
        if kind is _ALU:
            step = _then(prepare_alu(env, insn, pc), after)
            return _tracing(insn, step) if usermem.follow_alu(env, insn) else step
        if kind is _LDDW:
            return _then(prepare_lddw(env, insn, pc), after)
        if kind in _LOADS:
            return _then(memory.prepare_load(env, insn, pc), after)
        if kind in _STORES:
            return _then(memory.prepare_store(env, insn, pc), after)
        if kind is _JUMP:
            return self._jump(insn, pc)
        if kind is _CALL:
            return self._helper_call(insn, pc)
        if kind is _EXIT:
            return self._exit(pc)
        if kind is Kind.ATOMIC:
            return _then(lambda state: memory.atomic(env, state, insn, pc), after)
        if kind is Kind.MAY_GOTO:
            return prepare_may_goto(insn, pc, self._forks, self._last_turn)
        if kind is Kind.GOTO:
            target = after + insn.off
            return lambda _: target
        if pc in self._next_calls:
            call = partial(call_kfunc, env, insn=insn, pc=pc)
            return iterator.prepare_next(call, pc, self._forks, self._last_turn)
        if kind is Kind.CALL_KFUNC and exceptions.is_throw(env, insn):
            return self._throw(insn, pc)
        if kind is Kind.CALL_KFUNC:
            return self._kfunc_call(insn, pc)
        if kind is Kind.CALL_LOCAL:
            return self._local_call(insn, pc)
        if kind in (Kind.LD_ABS, Kind.LD_IND):
            return self._packet_load(insn, pc)
        assert kind is Kind.ADDR_SPACE_CAST
        return _then(arena.prepare_cast(env, insn, pc), after)

    def _jump(self, insn: Insn, pc: int) -> Step:
        arms = prepare_jump(self.env, insn, pc)
        forks, after, target = self._forks, pc + 1, pc + 1 + insn.off

        def step(state: State) -> int:
            taken, fallen = arms(state)
            if fallen is None:
                return target if taken is not None else _END
            if taken is not None:
                forks.append((target, taken))
            return after

        return step

    def _helper_call(self, insn: Insn, pc: int) -> Step:
        env = self.env
        name = env.profile.helpers.get(insn.imm, "")
        tail_call = name == "tail_call"
        special = HELPER_SPECIAL.get(name)
        if special is not None:

            def own(state: State) -> int:
                check_call_unlocked(state, name)
                special(env, state, insn, pc)
                return pc + 1

            return own

        def step(state: State) -> int:
            before = state.frame.regs.copy()
            entry = call_helper(env, state, insn, pc)
            if tail_call:
                assert self._later is None, "what runs later has no context"
                self.tail_calls.add(state.frame.entry)
                self._leave_early(state, pc, unknown(pc), moved=True)
            if entry >= 0:
                self._begin_callback(state, insn, pc, entry, before)
            return pc + 1

        return step

    def _kfunc_call(self, insn: Insn, pc: int) -> Step:
        env, forks = self.env, self._forks
        name = kfunc_name(env, insn)
        may_fail, compares = name in locking.MAY_FAIL, name == graph.RBTREE_ADD

        def step(state: State) -> int:
            failed = locking.failed(state, pc) if may_fail else None
            before = state.frame.regs.copy() if compares else None
            call_kfunc(env, state, insn, pc)
            if failed is not None:
                forks.append((pc + 1, failed))
            if before is not None:
                entry, args = graph.less_call(env, before, pc)
                self._begin_round(state, pc, entry, args, LESS)
            return pc + 1

        return step

    def _packet_load(self, insn: Insn, pc: int) -> Step:
        env = self.env

        def step(state: State) -> int:
            packet_load(env, state, insn, pc)
            self._leave_early(state, pc, scalar(ZERO, pc), moved=False)
            return pc + 1

        return step

    def _leave_early(self, state: State, pc: int, value: Reg, *, moved: bool) -> None:
        """The instruction may end the function, with `value` in r0 and the packet elsewhere if
        it `moved`: its caller goes on there."""
        if len(state.frames) > 1:
            state.certain = False
            other = state.copy()
            if moved:
                forget_packet(other, pc)
            other.frame.regs[0] = value
            self._forks.append((self._exit(pc)(other), other))

    def _begin_callback(
        self, state: State, insn: Insn, pc: int, entry: int, regs: list[Reg]
    ) -> None:
        """The state, in which the call is over, is that of no round at all; fork a first one."""
        helper = helper_of(self.env, insn).name
        self._begin_round(state, pc, entry, _callback_args(self.env, helper, regs, pc), helper)

    def _begin_round(
        self, state: State, pc: int, entry: int, args: tuple[Reg, ...], helper: str
    ) -> None:
        round_ = state.copy()
        self.env.called_back.add(entry)
        call = next(self._idents)
        callback = Callback(helper, call, args, state.refs, before=state.copy())
        self._enter(round_, pc, entry, args, callback)
        state.certain = round_.certain = False
        self._forks.append((entry, round_))

    def _enter(
        self,
        state: State,
        pc: int,
        entry: int,
        args: tuple[Reg, ...],
        callback: Callback | None = None,
    ) -> None:
        if len(state.frames) >= MAX_FRAMES:
            raise _too_deep(state)
        frame = Frame(len(state.frames), pc, entry, callback, next(self._idents))
        frame.regs[1 : 1 + len(args)] = args
        state.push(frame)

    def _local_call(self, insn: Insn, pc: int) -> Step:
        target = target_pc(insn, pc)
        assert target is not None
        function = self.env.functions[target]
        if target == self._callback:
            raise exceptions.called_directly(pc)
        if function.is_global:
            return self._global_call(pc, target)

        def step(state: State) -> int:
            regs = state.frame.regs
            args = tuple(regs[1:6])
            regs[0:6] = [NOT_INIT] * 6
            self._enter(state, pc, target, args)
            return target

        return step

    def _global_call(self, pc: int, target: int) -> Step:
        """The function is verified by itself: of its result it is only known to be a number."""
        env = self.env
        function = env.functions[target]
        wanted = parameters(env, function)
        moves, sleeps = target in self._packet_movers, target in self._sleepers
        throws = target in exceptions.throwers(env)
        called_back = self.entry == self._callback or self._later is not None

        def step(state: State) -> int:
            check_call_unlocked(state, None)
            regs = state.frame.regs
            check_arguments(env, state, pc, function.name, wanted, moves=moves)
            if throws:
                exceptions.check_may_throw(state, function.name)
                if called_back:
                    raise exceptions.in_callback(f"{function.name}(), which may throw,")
            if moves:
                forget_packet(state, pc)
            if sleeps:
                region = state.regions != NO_REGIONS
                if region or (self._later is not None and not env.sleepable):
                    why = "a region" if region else "the callback, which is run later,"
                    raise forbidden(
                        Rule.HELPER_NOT_ALLOWED,
                        "global functions that may sleep are not allowed in non-sleepable context",
                        reason=f"{function.name} makes a call that may sleep, and {why} forbids it",
                        suggestion="close the region before the call" if region else "",
                    )
            if len(state.frames) >= MAX_FRAMES:
                raise _too_deep(state)
            regs[0:6] = [unknown(pc), *[clobbered(pc)] * 5]
            state.certain = False
            return pc + 1

        return step

    def _throw(self, insn: Insn, pc: int) -> Step:
        """The program ends, with what is thrown as its result, or its callback's."""
        env, callback = self.env, self._callback
        called_back = self.entry == callback or self._later is not None

        def step(state: State) -> int:
            value = state.frame.regs[1]
            call_kfunc(env, state, insn, pc)
            if callback < 0:
                _check_range(env, value, 1)
            exceptions.check_thrown(state, pc)
            if called_back:
                raise exceptions.in_callback(f"bpf_throw kfunc (insn {pc})")
            return _END

        return step

    def _exit(self, pc: int) -> Step:
        env = self.env
        entry, later = self.entry, self._later is not None

        def step(state: State) -> int:
            if len(state.frames) == 1:
                whose = 0 if entry == self._callback else entry
                _check_result(env, state, whose, later=later)
                return _END
            value = state.frame.regs[0]
            if value.type is _STACK:
                raise forbidden(
                    Rule.STACK_ACCESS,
                    "cannot return stack pointer to the caller",
                    reason="the frame that it points into ends here",
                    culprit=value,
                )
            if state.frame.callback is not None:
                return self._round_ended(state, value)
            frame = state.pop()
            state.frame.regs[0] = value
            if env.lends_stack:
                slices.forget_frame(state, frame.number, pc)
            return frame.callsite + 1

        return step

    def _round_ended(self, state: State, value: Reg) -> int:
        """A callback returned: the helper returns too, or calls it again."""
        callback = state.frame.callback
        assert callback is not None
        check_readable(value, 0)
        mark_precise(value)
        number = value.type is _SCALAR
        if not number or value.var.smin < 0 or value.var.smax > 1:
            raise _bad_result("At callback return", value, 0, 1)
        if state.refs != callback.refs:
            raise Refused(
                Rule.REFERENCE_LEAK,
                "callback acquires or releases references",
                reason="what a callback reserves it must release in the same round",
            )
        entry, callsite = state.frame.entry, state.frame.callsite
        before = callback.before
        left = state.pop()
        if self.env.lends_stack:
            slices.forget_frame(state, left.number, callsite)
        if value.var.umin == 0:
            again = state.copy()
            _widen(again, before)
            rounds = replace(callback, rounds=callback.rounds + 1, before=again.copy())
            self._enter(again, callsite, entry, callback.args, rounds)
            self._forks.append((entry, again))
        state.frame.regs[0] = unknown(callsite)
        return callsite + 1


def _callback_args(env: Environment, helper: str, regs: list[Reg], pc: int) -> tuple[Reg, ...]:
    """r1 to r5 of a callback, from those of the helper."""
    if helper == "loop":
        return (unknown(pc), regs[3])
    if helper == "user_ringbuf_drain":
        return (Pointer(RegType.CONST_PTR_TO_DYNPTR, pc, id=env.new_id()), regs[3])
    if helper == "find_vma":
        area = struct_id(env, "vm_area_struct")
        return (regs[1], Pointer(RegType.PTR_TO_BTF_ID, pc, btf_id=area), regs[4])
    pointer = regs[1]
    assert helper == "for_each_map_elem"
    assert pointer.map is not None
    return (
        pointer,
        Pointer(RegType.PTR_TO_MAP_KEY, pc, map=pointer.map, map_index=pointer.map_index),
        Pointer(RegType.PTR_TO_MAP_VALUE, pc, map=pointer.map, map_index=pointer.map_index),
        regs[3],
    )


def _widen(state: State, before: State | None) -> None:
    """Numbers that a round of a callback changed become unknown, if they left their range."""
    if before is None:
        return
    for frame, old in zip(state.frames, before.frames, strict=True):
        slots = {base: slot.reg for base, slot in old.stack.items()}
        for index in range(10):
            frame.regs[index] = _widened(frame.regs[index], old.regs[index])
        for base, slot in list(frame.stack.items()):
            if slot.reg is not None:
                wide = _widened(slot.reg, slots.get(base))
                if wide is not slot.reg:
                    frame.put(base, Slot(slot.kinds, wide, slot.spilled))


def _widened(reg: Reg, old: Reg | None) -> Reg:
    if reg.type is not _SCALAR or reg is old:
        return reg
    if old is not None and old.type is not reg.type:
        return reg  # no number was there before: the next round tells whether it changes again
    origin = reg.origin
    if (
        old is not None
        and is_subsumed_by(reg.var, old.var)
        and (origin is None or origin is old.origin)
    ):
        return reg
    return forgotten(reg)


def _too_deep(state: State) -> Refused:
    return Refused(
        Rule.CALL_DEPTH,
        f"the call stack of {len(state.frames) + 1} frames is too deep",
        reason=f"at most {MAX_FRAMES} functions may be active at once",
        kind=Why.LIMIT,
    )


def _check_result(env: Environment, state: State, entry: int, *, later: bool) -> None:
    """The outermost function returns something allowed, and holds no references."""
    value = state.frame.regs[0]
    if state.refs:
        text = "BPF_EXIT instruction in main prog would lead to reference leak"
        raise reference_leak(state, text)
    check_unlocked(state, "BPF_EXIT instruction in main prog")
    rcu.check_closed(state, "BPF_EXIT instruction in main prog")
    if not entry and not later and is_btf_typed(env.profile) and env.attachment.void:
        return
    check_readable(value, 0)
    check_conceals(env, value, "R0 leaks addr as return value")
    if later:
        mark_precise(value)
        if value.type is not _SCALAR or value.var.smin or value.var.smax:
            raise _bad_result("At async callback return", value, 0, 0)
        return
    if entry != 0:
        if value.type is not _SCALAR:
            raise forbidden(
                Rule.RETURN_VALUE,
                f"At program exit the register R0 is not a known value ({value.type.value})",
                reason="global functions return numbers",
            )
        return
    _check_range(env, value, 0)


def _check_range(env: Environment, value: Reg, number: int) -> None:
    """What the program returns, in register `number`, is something that it may."""
    if env.returns is None:
        return
    low, high = env.returns
    mark_precise(value)
    if value.type is not _SCALAR:
        raise forbidden(
            Rule.RETURN_VALUE,
            f"At program exit the register R{number} is not a known value ({value.type.value})",
            reason=f"programs of {env.profile.name} return a number from {low} to {high}",
        )
    if value.var.smin < low or value.var.smax > high:
        raise _bad_result("At program exit", value, low, high, number)


def _bad_result(when: str, value: Reg, low: int, high: int, number: int = 0) -> Refused:
    return Refused(
        Rule.RETURN_VALUE,
        f"{when} the register R{number} has smin={value.var.smin} smax={value.var.smax} "
        f"should have been in [{low}, {high}]",
        reason=f"the return value must be known to lie between {low} and {high}",
        suggestion="return constants, or compare the value with the limits first",
        culprit=value,
        bounds=(low, high),
        kind=Why.POLICY,
    )


def _refusing(refused: Refused) -> Step:
    def step(_: State) -> int:
        raise refused

    return step


def _then(change: Callable[[State], None], after: int) -> Step:
    def step(state: State) -> int:
        change(state)
        return after

    return step


def _notes_cover(old: State, new: State) -> bool:
    """Whether observers have seen from `old` what they would see from `new`."""
    if old.notes is None or new.notes is None:
        return old.notes is new.notes
    return old.notes.covers(new.notes)


def _tracing(insn: Insn, step: Step) -> Step:
    """The ALU step, with what is known of where its result came from."""
    dst, src = insn.dst, insn.src if insn.spec.operand is Operand.X else None
    constant = scalar(Scalar.const(insn.imm), -1)

    def traced(state: State) -> int:
        regs = state.frame.regs
        a = regs[dst]
        b = constant if src is None else regs[src]
        after = step(state)
        if a.origin is not None or b.origin is not None:
            regs[dst] = usermem.alu_result(insn, a, b, regs[dst])
        return after

    return traced


_LOADS = frozenset({Kind.LDX, Kind.LDSX, Kind.LOAD_ACQ})
_STORES = frozenset({Kind.ST, Kind.STX, Kind.STORE_REL})


def _begin_anew(state: State) -> None:
    """Start anew to learn which numbers and stack slots matter: what hung on them before this
    state is stored, or hangs on them on other paths, says nothing of what comes after it.
    Whatever marks the new Regs and Slots still reaches the old."""
    renewed: dict[Reg, Reg] = {}
    for frame in state.frames:
        regs = frame.regs
        for number in range(10):
            reg = regs[number]
            if reg.type is _SCALAR:
                regs[number] = _renewed(reg, renewed)
        for base, slot in list(frame.stack.items()):
            held = slot.reg
            if slot.copied is not None:
                slot = CopiedSlot(slot.kinds, slot.copied)
            elif slot.object is not None:
                slot = ObjectSlot(slot.object)
            elif held is not None and held.type is _SCALAR:
                slot = Slot(slot.kinds, _renewed(held, renewed), slot.spilled)
            else:
                slot = Slot(slot.kinds, held, slot.spilled)
            frame.put(base, slot)
            slot.stored = True


def _renewed(reg: Reg, renewed: dict[Reg, Reg]) -> Reg:
    found = renewed.get(reg)
    if found is None:
        found = renewed[reg] = reg.like(reg.var, (reg,), reg.id, reg.shift)
    return found


def _same_calls(old: State, new: State) -> bool:
    return len(old.frames) == len(new.frames) and all(
        one.callsite == other.callsite for one, other in zip(old.frames, new.frames, strict=True)
    )


def _is_round(pc: int, state: State) -> bool:
    """Whether a helper calls its callback, which begins at `pc`."""
    return state.frame.callback is not None and state.frame.entry == pc


def _infinite(pc: int, *, anew: bool) -> Refused:
    """`anew`: what bounds the loop that the path seems to be in is made anew in each turn."""
    reason = "the path is back where it was, with the same registers and stack"
    if anew:
        reason += (
            "; each turn begins a new iterator or call, so none bounds the loop around it. "
            "The kernel takes both for one loop that ends, and does not notice"
        )
    return Refused(
        Rule.INFINITE_LOOP,
        f"infinite loop detected at insn {pc}",
        reason=reason,
        suggestion="count the loop's turns in a register and leave after a constant number",
    )
