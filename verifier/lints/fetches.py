"""User memory that is looked at, and then fetched again: it may have changed in between."""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.verifier.lints.notes import Checked
from pybpfvm.verifier.lints.site import Site
from pybpfvm.verifier.states.regstate import Reg, RegType
from pybpfvm.verifier.usermemory.origin import Origin, Source
from pybpfvm.verifier.usermemory.usermem import USER
from pybpfvm.verifier.verdict import Rule


def compared(site: Site, reg: Reg) -> None:
    """A branch depends on a number."""
    origin = reg.origin
    if origin is None:
        return
    found = _place(origin)
    if found is not None:
        site.notes = replace(site.notes, checked=site.notes.checked | {found})


def _place(origin: Origin) -> Checked | None:
    """The bytes that a number was fetched from."""
    key = origin.key
    if origin.source is Source.COPIED and key[0] == "at":
        _, where, offset, size = key
        assert isinstance(where, tuple)
        assert isinstance(offset, int)
        assert isinstance(size, int)
        return Checked(where, offset, size, origin.at)
    if origin.source is Source.SHARED and isinstance(key[1], int):
        size = key[2] if len(key) > 2 else 1
        assert isinstance(size, int)
        return Checked((key[0],), key[1], size, origin.at)
    return None


def fetched(site: Site) -> None:
    """User memory is copied to the program."""
    addr, size = site.regs[3], site.regs[2]
    address(site, addr)
    origin = addr.origin
    if origin is None or origin.off is None or origin.off.var.mask:
        return
    if size.type is RegType.SCALAR_VALUE:
        low = origin.off.var.smin
        _again(site, origin.key, low, low + size.var.umax, "user memory")


def loaded(site: Site) -> None:
    """A word of a map that user space writes, or of user memory, is loaded."""
    pointer = site.regs[site.insn.src]
    if pointer.type is RegType.PTR_TO_MEM and site.ring.contexts and not pointer.var.mask:
        low = pointer.off + site.insn.off + pointer.var.smin
        _again(site, (USER,), low, low + int(site.insn.spec.size or 8), "user memory")
    spec = pointer.map
    if site.contract is None or spec is None or spec.name not in site.contract.user_writes:
        return
    if pointer.type is RegType.PTR_TO_MAP_VALUE and not pointer.var.mask and spec.max_entries == 1:
        low = pointer.off + site.insn.off + pointer.var.smin
        _again(site, (spec.name,), low, low + int(site.insn.spec.size or 8), f"map {spec.name}")


def _again(site: Site, key: tuple[object, ...], low: int, high: int, what: str) -> None:
    for seen in site.notes.checked:
        if seen.key == key and seen.at != site.pc and low < seen.offset + seen.size:
            if high <= seen.offset:
                continue
            site.warn(
                Rule.DOUBLE_FETCH,
                f"bytes {low} to {high - 1} of {what} are fetched again after a check",
                f"what was fetched at instruction {seen.at} was compared since; user space may "
                "have changed it, so the check says nothing of what is fetched here",
                "fetch once, and use the copy that was checked",
            )
            return


def address(site: Site, addr: Reg) -> None:
    """A number is used as an address of user memory."""
    if addr.origin is not None and addr.origin.source is Source.CQE_USER_DATA:
        site.warn(
            Rule.FORGED_POINTER,
            "the user_data of a completion is used as an address",
            "any request may complete into this CQ, those of user space too, with whatever "
            "user_data it likes",
            "keep addresses in a map, and let user_data be an index that is checked",
        )
