"""The registers of a BPF program, as GDB's bpf architecture has them.

Its pointers have 32 bits, so that is all it takes of r10 and the pc, and it does not let a target
say otherwise. For clients that do, r10 is described as a whole too, as `fp`.

"Debugging with GDB", appendix "Target Descriptions"; `maint print remote-registers` of GDB 18.
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.isa.opcodes import REGISTERS


@dataclass(frozen=True, slots=True)
class Register:
    """A register of `size` bytes that has value number `value` of r0 to r10 and the pc. What is
    not `joined` is read by itself only."""

    name: str
    size: int
    kind: str
    value: int
    joined: bool = True


PC = REGISTERS  # its number among the registers
ALL = (
    *(Register(f"r{number}", 8, "int64", number) for number in range(REGISTERS - 1)),
    Register(f"r{REGISTERS - 1}", 4, "data_ptr", REGISTERS - 1),
    Register("pc", 4, "code_ptr", PC),
    Register("fp", 8, "int64", REGISTERS - 1, joined=False),
)


def target_xml() -> str:
    """The description of ALL."""
    registers = "\n".join(
        f'    <reg name="{one.name}" bitsize="{8 * one.size}" type="{one.kind}" regnum="{number}"/>'
        for number, one in enumerate(ALL)
    )
    return f"""<?xml version="1.0"?>
<!DOCTYPE target SYSTEM "gdb-target.dtd">
<target version="1.0">
  <architecture>bpf</architecture>
  <feature name="org.pybpfvm.bpf">
{registers}
  </feature>
</target>
"""
