"""Looking at recordings, forward and backward: `Debugger` is what every surface drives."""

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.debugger import Debugger, Stop
from pybpfvm.debugger.history import History
from pybpfvm.debugger.position import Position

__all__ = ["Breakpoint", "Debugger", "History", "Position", "Stop"]
