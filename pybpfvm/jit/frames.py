"""The frames of a run that pauses, read from the native stack of compiled code.

Code that is walked is uniform, so below each return address lie r6 to r9 of the caller:

    bottom - 8    where the way in goes on      ▲ higher addresses
                  r6 r7 r8 r9 of nobody
                  where the outermost function goes on
                  r6 r7 r8 r9 of the outermost
                  ...
    stack + 8     r9 of who called the function that asks
    stack         where that goes on when Python has answered
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

from pybpfvm.engine import PausedFrame
from pybpfvm.jit.unit import Unit
from pybpfvm.memory import FRAME_STRIDE
from pybpfvm.outline import outline_of

_KEPT_WORDS = 4
_Words = ctypes.c_uint64 * (_KEPT_WORDS + 1)


class PauseReached(Exception):
    """The run has executed what it should. `frames`: innermost first, those that it has left on
    its way out; `called_back` as in Paused."""

    def __init__(self, frames: list[PausedFrame]) -> None:
        super().__init__()
        self.frames = frames
        self.called_back: int | None = None


def callers(
    stack: int, bottom: int, frame: int, unit_at: Callable[[int], Unit]
) -> Iterator[PausedFrame]:
    """The functions that wait for others, innermost first. `frame` is r10 of that which asks."""
    at = stack + 8
    while at + 8 * _KEPT_WORDS < bottom - 8:
        *kept, back = _Words.from_address(at)
        frame -= FRAME_STRIDE
        unit = unit_at(back)
        pc = unit.pc_of(unit.index_at(back))
        astray = outline_of(unit.program).astray(pc, pc + 1)
        regs = (0, 0, 0, 0, 0, 0, *reversed(kept), frame)
        yield PausedFrame(unit.program, pc if astray else pc + 1, regs, astray)
        at += ctypes.sizeof(_Words)
