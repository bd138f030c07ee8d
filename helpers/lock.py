"""Spin locks in map values. A run is never interrupted, so a held lock is the holder's own."""

from __future__ import annotations

from pybpfvm.helpers.context import BadArgument, HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.memory import AddressSpace, RegionKind

_LOCK_BYTES = 4


def _state(memory: AddressSpace, addr: int) -> int:
    """The lock word; BadArgument unless it is an aligned word of a map value, free or held."""
    region, _, offset = memory.check(addr, _LOCK_BYTES, write=True)
    if region.kind is not RegionKind.MAP_VALUE or offset % _LOCK_BYTES:
        raise BadArgument(1, f"{addr:#x} is not a spin lock of a map value")
    state = memory.load(addr, _LOCK_BYTES)
    if state not in (0, 1):
        raise BadArgument(1, f"the spin lock at {addr:#x} has been overwritten ({state:#x})")
    return state


def spin_lock(ctx: HelperContext, lock: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Take the lock; taking a held one would wait for ever and is a bad argument."""
    if _state(ctx.memory, lock) == 1:
        raise BadArgument(1, f"the spin lock at {lock:#x} is held already: a deadlock")
    ctx.memory.store(lock, _LOCK_BYTES, 1)
    return 0


def spin_unlock(ctx: HelperContext, lock: int, _2: int, _3: int, _4: int, _5: int) -> int:
    """Give the lock back; a free one is a bad argument."""
    if _state(ctx.memory, lock) == 0:
        raise BadArgument(1, f"the spin lock at {lock:#x} is not held")
    ctx.memory.store(lock, _LOCK_BYTES, 0)
    return 0


_LOCK = (ArgType.PTR_TO_SPIN_LOCK,)

ROWS = (
    Helper("spin_lock", _LOCK, RetType.VOID, spin_lock, "Lock a map value."),
    Helper("spin_unlock", _LOCK, RetType.VOID, spin_unlock, "Unlock a map value."),
)
