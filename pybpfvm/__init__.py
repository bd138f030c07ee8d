"""pybpfvm: verify, run, debug and fuzz BPF programs that drive io_uring.

The host API is `load`, `Ring` and `LoopRing`, which live in `pybpfvm.session`, and `breakpoint`,
which opens the debugger; they are imported on first use, so that importing one part does not pull
in the whole house.
"""

from __future__ import annotations

# Not from typing: importing that would be a tenth of the time of `pybpfvm --help`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybpfvm.session import LoopRing, Ring, load
    from pybpfvm.session.breakpoint import breakpoint

__version__ = "0.1.0"
__all__ = ["LoopRing", "Ring", "__version__", "breakpoint", "load"]


def __getattr__(name: str) -> object:
    if name in ("LoopRing", "Ring", "load"):
        from pybpfvm import session

        return getattr(session, name)
    if name == "breakpoint":
        from pybpfvm.session.breakpoint import breakpoint

        return breakpoint
    raise AttributeError(f"module 'pybpfvm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
