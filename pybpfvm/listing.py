"""A program's listing: names for what its instructions refer to, and HTML for notebooks."""

from __future__ import annotations

from pybpfvm.errors import SourceLine
from pybpfvm.isa.codec import pcs
from pybpfvm.isa.disasm import Resolve, format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program

_MOST_HTML_INSNS = 5_000
_PC = "color:#888;text-align:right;padding-right:1em"
_SOURCE = "color:#2a6b35"


class Names:
    """Names for what a program's instructions refer to: helpers, maps, subprograms, the kernel's
    functions and variables."""

    def __init__(self, obj: BpfObject, program: Program, profile: Profile | None) -> None:
        self._obj = obj
        self._helpers = profile.helpers if profile is not None else {}
        self._functions = {sub.start: sub.name for sub in program.subprogs}

    def __call__(self, insn: Insn, pc: int) -> str | None:
        kind = insn.spec.kind
        if kind is Kind.CALL:
            return self._helpers.get(insn.imm) or self._obj.kernel_functions.get(insn.imm)
        if kind is Kind.CALL_KFUNC:
            return self._obj.kernel_functions.get(insn.imm)
        if kind is Kind.LDDW and insn.src == Pseudo.BTF_ID:
            known = {**self._obj.kernel_functions, **self._obj.kernel_variables}
            return known.get(insn.imm)
        if kind is Kind.CALL_LOCAL:
            return self._functions.get(pc + 1 + insn.imm)
        if kind is Kind.LDDW and insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE):
            index, offset = insn.imm & 0xFFFF_FFFF, insn.imm >> 32
            if index >= len(self._obj.maps):
                return None
            name = self._obj.maps[index].name
            return name if insn.src == Pseudo.MAP_IDX else f"{name}+{offset}"
        return None


def html_listing(program: Program, resolve: Resolve | None = None) -> str:
    """The instructions of `program` with their C lines, as an HTML table.

    A program too long for a notebook shows its first instructions and says so.
    """
    from html import escape  # notebooks only

    rows = [f"<b>{escape(program.name)}</b> ({escape(program.section)}, {program.slots} slots)"]
    rows.append('<table style="font-family:monospace;text-align:left;white-space:pre">')
    labels = {sub.start: sub.name for sub in program.subprogs}
    shown: SourceLine | None = None
    for pc, insn in list(zip(pcs(program.insns), program.insns, strict=True))[:_MOST_HTML_INSNS]:
        if pc in labels:
            rows.append(_row("", f"<b>{escape(labels[pc])}:</b>"))
        line = program.lines.get(pc)
        if line is not None and line != shown:
            shown = line
            text = escape(f"; {' '.join(line.text.split())} @ {line}")
            rows.append(_row("", f'<span style="{_SOURCE}">{text}</span>'))
        rows.append(_row(str(pc), escape(format_insn(insn, pc, resolve=resolve))))
    hidden = len(program.insns) - _MOST_HTML_INSNS
    if hidden > 0:
        rows.append(_row("", f"… {hidden:,} more instructions …"))
    rows.append("</table>")
    return "\n".join(rows)


def _row(pc: str, content: str) -> str:
    left = 'style="text-align:left;padding:0 .5em"'
    return f'<tr><td style="{_PC}">{pc}</td><td {left}>{content}</td></tr>'
