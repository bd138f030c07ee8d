"""How a run asks to be run again: fields set, conditions that can come true, progress between.

iouring-bpf-2021, section 3.4.
"""

from __future__ import annotations

from dataclasses import replace

from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles.base import WaitBy
from pybpfvm.verifier.lints.completions import check_count
from pybpfvm.verifier.lints.notes import Notes, Span
from pybpfvm.verifier.lints.site import Site, only, u32_span
from pybpfvm.verifier.states.regstate import RegType
from pybpfvm.verifier.usermemory.contract import MAX_CQ_ENTRIES
from pybpfvm.verifier.verdict import Rule


def stored(site: Site) -> None:
    """A field of the context is written."""
    field = site.profile.ctx_field(site.insn.off, int(site.insn.spec.size or 8))
    if field is None or field.name not in ("wait_nr", "wait_idx", "futex"):
        return
    if field.name == "futex":
        site.notes = replace(site.notes, word=True)
        return
    if site.insn.spec.kind is Kind.ST:
        span = (site.insn.imm & 0xFFFF_FFFF,) * 2
    else:
        value = site.regs[site.insn.src]
        if value.type is not RegType.SCALAR_VALUE:
            return
        span = u32_span(value)
        if field.name == "wait_nr":
            check_count(site, value, "wait_nr")
    if field.name == "wait_nr":
        site.notes = replace(site.notes, wait_nr=span)
    else:
        site.notes = replace(site.notes, wait_idx=span)


def reaped(site: Site) -> None:
    """A CQ is reaped from, or the program tried."""
    cq = only(u32_span(site.regs[2]))
    site.notes = replace(site.notes, reaped=site.notes.reaped | {cq})


def ended(site: Site) -> None:
    """The run ends: if it waits, for something that can come, and that takes it further."""
    notes = site.notes
    rules = site.ring
    if _returns(site, rules.futex_value) and not notes.word:
        site.warn(
            Rule.WAIT_STALE,
            "the run waits for a futex, but did not set one",
            "the field keeps its value from run to run: the first run finds 0, which is no "
            "address, a later one the word that an earlier one waited for",
            "set futex and futex_val on every path that waits for a word",
        )
    if not _waits(site, notes):
        return
    if rules.ctx_persists and (notes.wait_nr is None or notes.wait_idx is None):
        missing = "wait_nr" if notes.wait_nr is None else "wait_idx"
        site.warn(
            Rule.WAIT_STALE,
            f"the run waits, but did not set {missing}",
            "the fields keep their values from run to run: the first run finds 0, a later one "
            "what an earlier one left",
            "set wait_nr and wait_idx on every path that waits",
        )
        return
    nr = notes.wait_nr or (0, 0)
    idx = notes.wait_idx or (0, 0)
    site.check_cq("wait_idx", idx)
    _check_satisfiable(site, nr, idx)
    cq = only(idx)
    touched = None in notes.reaped or not notes.reaped.isdisjoint({cq} if cq is not None else ())
    if cq is None and notes.reaped:
        touched = True
    if not touched and not notes.persisted:
        shown = "the CQ it waits on" if cq is None else f"CQ {cq}"
        site.warn(
            Rule.WAIT_NO_PROGRESS,
            f"the run waits on {shown}, but neither reaps from it nor changes anything",
            "waiting takes no CQE: once there are enough, every run finds what the last one "
            "found, and the program runs again and again without end",
            "reap what was waited for, or note in a map that this step is done",
        )


def _waits(site: Site, notes: Notes) -> bool:
    """Whether the run certainly asks to be run again."""
    rules = site.ring
    if rules.wait_by is WaitBy.RETURN:
        return _returns(site, rules.wait_value)
    if rules.wait_by is WaitBy.WAIT_NR:
        return notes.wait_nr is not None and notes.wait_nr[1] > 0
    return False


def _returns(site: Site, wanted: int | None) -> bool:
    """Whether this is certainly what the run returns."""
    value = site.regs[0]
    known = value.type is RegType.SCALAR_VALUE and not value.var.mask
    return known and value.var.value == wanted


def _check_satisfiable(site: Site, nr: Span, idx: Span) -> None:
    if nr[1] == 0:
        site.warn(
            Rule.WAIT_NEVER,
            "the run waits for 0 completions",
            "the request completes with -EINVAL instead of waiting",
            "set wait_nr to the number of completions to wait for, or return OK",
        )
        return
    cq = only(idx)
    declared = () if site.contract is None else site.contract.cq_entries
    most = declared[cq] if cq is not None and cq < len(declared) else MAX_CQ_ENTRIES
    if nr[0] > most:
        site.warn(
            Rule.WAIT_NEVER,
            f"the run waits for {nr[0]} completions, and the CQ holds {most} at most",
            "what does not fit is dropped or kept elsewhere: the condition never comes true",
            f"wait for at most {most}, or declare and create a larger CQ",
        )
