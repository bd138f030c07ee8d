"""The table of instructions for docs/isa.md, written from `TABLE`."""

from __future__ import annotations

from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn, InsnSpec
from pybpfvm.isa.opcodes import Kind
from pybpfvm.isa.table import TABLE

_EXAMPLE = {"dst": 1, "src": 2, "off": 8, "imm": 5}


def table_markdown() -> str:
    """One line per row of the table, with the same operands in every example."""
    lines = [
        "| row | opcode | told apart by | mnemonic form | clang form | kernel form | group |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in TABLE:
        insn = example(spec)
        cells = (
            spec.mnemonic,
            f"{spec.opcode:#04x}",
            _discriminators(spec),
            f"`{format_insn(insn, style='mnemonic')}`",
            f"`{format_insn(insn, style='clang')}`",
            f"`{format_insn(insn, style='kernel')}`",
            spec.group,
        )
        # A bar inside a cell would end it, even between backquotes.
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def example(spec: InsnSpec) -> Insn:
    """An instruction of the row `spec` with r1 as dst, r2 as src, 8 as off and 5 as imm."""
    values = dict(_EXAMPLE)
    if spec.kind is Kind.LDDW:
        values["src"] = 0
    elif spec.kind is Kind.ADDR_SPACE_CAST:
        values["imm"] = 1
    return Insn(spec, **{name: values[name] for name in spec.fields})


def _discriminators(spec: InsnSpec) -> str:
    fields = (("off", spec.off_is), ("src", spec.src_is), ("imm", spec.imm_is))
    return ", ".join(f"{name} {value:#x}" for name, value in fields if value is not None)
