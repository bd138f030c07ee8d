"""Names for the words programs pass around: user blocks, map values, stack slots, handles."""

from __future__ import annotations

from pybpfvm.image import FunctionRef, ProgramRef
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.report.account import plain_number


class AddressNames:
    """Turns a 64-bit word into `&block+4`, a map's name, or a plain number."""

    def __init__(self, memory: AddressSpace) -> None:
        self._memory = memory

    def __call__(self, word: int) -> str:
        target = self._memory.resolve(word)
        if target is not None:
            return _target_name(target)
        region = self._memory.region_at(word)
        if region is None:
            return plain_number(word)
        offset = word - region.start
        if region.kind is RegionKind.STACK:
            return f"&{region.name}-{region.size - offset}".replace("frame 0", "fp")
        return f"&{region.name}" + (f"+{offset}" if offset else "")


def _target_name(target: object) -> str:
    if isinstance(target, FunctionRef):
        return next(
            (sub.name for sub in target.program.subprogs if sub.start == target.pc), "function"
        )
    if isinstance(target, ProgramRef):
        return target.program.name
    spec = getattr(target, "spec", None)
    return spec.name if spec is not None else str(target)
