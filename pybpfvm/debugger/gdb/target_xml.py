"""The registers of a BPF program, as GDB wants to have them described.

"Debugging with GDB", appendix "Target Descriptions".
"""

from __future__ import annotations

from pybpfvm.isa.opcodes import REGISTERS

PC = REGISTERS  # the number of the pc among the registers
REGISTER_BYTES = 8
COUNT = REGISTERS + 1


def target_xml() -> str:
    """r0 to r10 and the pc, 64 bits each."""
    kinds = ["int64"] * (REGISTERS - 1) + ["data_ptr", "code_ptr"]
    names = [f"r{number}" for number in range(REGISTERS)] + ["pc"]
    registers = "\n".join(
        f'    <reg name="{name}" bitsize="{8 * REGISTER_BYTES}" type="{kind}" regnum="{number}"/>'
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True))
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
