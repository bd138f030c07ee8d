"""may_goto: a conditional jump that the kernel takes once its budget of turns is used up.

The program can not know when, so both arms are possible; no loop through it runs forever. A path
that comes back to a may_goto with one more turn ends if an older state there covers it, and what
a turn changes, but does not matter, is forgotten (`backedges.widen`), so that this happens soon.
Observed of the running kernel with probe loads: the arm that jumps is explored first; states are
stored at each may_goto that a path comes to.
"""

from __future__ import annotations

from collections.abc import Callable

from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.pruning.backedges import widen
from pybpfvm.verifier.states.state import State

# Gives the state in which the last turn of a loop began at a pc, if the path made one.
LastTurn = Callable[[int, State], State | None]


def prepare_may_goto(
    insn: Insn, pc: int, forks: list[tuple[int, State]], last_turn: LastTurn
) -> Callable[[State], int]:
    """The step: goes on where the jump leads, and forks the next turn."""
    target = pc + 1 + insn.off

    def step(state: State) -> int:
        state.certain = False
        turn = state.copy()
        turn.frame.rounds += 1
        before = last_turn(pc, state)
        if before is not None:
            widen(turn, before)
        forks.append((pc + 1, turn))
        return target

    return step
