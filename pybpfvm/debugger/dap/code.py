"""Instructions, bytes and lines that clients ask for by place."""

from __future__ import annotations

import base64
from bisect import bisect_left
from typing import Any

from pybpfvm.debugger.dap import arguments as wanted
from pybpfvm.debugger.dap.refusal import Refused
from pybpfvm.debugger.dap.sources import Sources
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.target import Target
from pybpfvm.isa.codec import SLOT_BYTES
from pybpfvm.program import Program

Body = dict[str, Any]
MOST_INSNS = 10_000
MOST_BYTES = 1 << 20
_MOST_TARGETS = 50
_U64 = (1 << 64) - 1


class Code:
    """What lies where."""

    def __init__(self, target: Target, sources: Sources, client: wanted.Initialize) -> None:
        self._target = target
        self._sources = sources
        self._first_line = int(client.lines_start_at1)
        self._goto: list[Position] = []

    def place(self, reference: str, offset: int) -> tuple[Program, int]:
        """The instruction that a reference means. Refused for none."""
        found = self._target.code.place(_address(reference) + offset)
        if found is None:
            raise Refused(f"{reference} is no address of code")
        return found

    def reference(self, program: Program, pc: int) -> Body:
        """How answers name an instruction."""
        return {"instructionReference": f"{self._target.code.address(program, pc):#x}"}

    def disassemble(self, args: wanted.Disassemble) -> Body:
        """As many instructions as were asked for; those that there are not are marked so."""
        count = min(max(args.instruction_count, 0), MOST_INSNS)
        program, pc = self.place(args.memory_reference, args.offset)
        known = self._target.pcs(program)
        first = bisect_left(known, pc) + args.instruction_offset
        inside = range(max(first, 0), min(first + count, len(known)))
        listed = []
        if inside:
            listed = self._target.debugger.disassemble(program, known[inside[0]], len(inside))
        names = {sub.start: sub.name for sub in program.subprogs}
        raw = self._target.code_bytes(program)
        found: list[Body] = []
        for index in range(first, first + count):
            if index not in inside:
                found.append(self._nothing(program, index, known[-1] if known else 0, len(known)))
                continue
            line = listed[index - inside[0]]
            end = known[index + 1] if index + 1 < len(known) else program.slots
            one: Body = {
                "address": f"{self._target.code.address(program, line.pc):#x}",
                "instructionBytes": raw[line.pc * SLOT_BYTES : end * SLOT_BYTES].hex(" "),
                "instruction": f"{line.pc:>5}: {line.text}",
            }
            if line.pc in names:
                one["symbol"] = names[line.pc]
            source = None if line.source is None else self._sources.files.get(line.source.file)
            if source is not None and line.source is not None:
                one["location"] = source.reference()
                one["line"] = line.source.line - 1 + self._first_line
            found.append(one)
        return {"instructions": found}

    def _nothing(self, program: Program, index: int, last: int, count: int) -> Body:
        """An instruction before the first or behind the last one."""
        slot = index if index < 0 else last + 1 + index - count
        addr = self._target.code.address(program, slot) & _U64
        return {
            "address": f"{addr:#x}",
            "instruction": "(no instruction)",
            "presentationHint": "invalid",
        }

    def read_memory(self, args: wanted.ReadMemory) -> Body:
        """Bytes of code or data, as far as there are any in one piece."""
        addr = _address(args.memory_reference) + args.offset
        count = min(max(args.count, 0), MOST_BYTES)
        data = self._bytes(addr, count)
        found: Body = {"address": f"{addr & _U64:#x}"}
        if data:
            found["data"] = base64.b64encode(data).decode("ascii")
        if len(data) < args.count:
            found["unreadableBytes"] = args.count - len(data)
        return found

    def _bytes(self, addr: int, count: int) -> bytes:
        place = self._target.code.place(addr)
        if place is not None:
            start = addr - self._target.code.address(place[0], 0)
            return self._target.code_bytes(place[0])[start : start + count]
        if not 0 <= addr <= _U64:
            return b""
        return self._target.readable(addr, count)

    # --- lines to go to -----------------------------------------------------------------------

    def goto_targets(self, args: wanted.GotoTargets) -> Body:
        """The places where the run that one is in comes to a line."""
        file = self._sources.meant(args.source)
        line = None
        if file is not None:
            line = file.line_from(args.line + 1 - self._first_line)
        debugger = self._target.debugger
        entry = debugger.entry
        if file is None or line is None or entry is None:
            return {"targets": []}
        found: list[Body] = []
        for position in self._target.visits(file.name, line, _MOST_TARGETS):
            self._goto.append(position)
            found.append(
                {
                    "id": len(self._goto),
                    "label": f"run {position.run} of {entry.program}, "
                    f"after {position.insns} instructions",
                    "line": line - 1 + self._first_line,
                }
            )
        return {"targets": found}

    def goto_position(self, target: int) -> Position:
        """The place that a target is. Refused for one that was never told."""
        if not 1 <= target <= len(self._goto):
            raise Refused(f"there is no target {target}")
        return self._goto[target - 1]


def _address(reference: str) -> int:
    """The number that a memory reference is. Refused for what is none."""
    try:
        found = int(reference, 0)
    except ValueError:
        found = -1
    if not 0 <= found <= _U64:
        raise Refused(f"{reference[:40]!r} is no memory reference")
    return found
