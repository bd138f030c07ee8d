"""Programs from bodies: the main function, then each function it reaches, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pybpfvm.bits import u32
from pybpfvm.errors import InputError
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.loader.functions import MAX_SLOTS, Function
from pybpfvm.loader.lines import LineTable
from pybpfvm.loader.relo import Body
from pybpfvm.program import Program, SourceLine, Subprog


@dataclass(slots=True)
class SlotBudget:
    """Instructions that linking may still produce: shared functions are copied per program."""

    left: int = MAX_SLOTS

    def take(self, slots: int, where: str) -> None:
        """InputError once the budget is used up."""
        self.left -= slots
        if self.left < 0:
            raise InputError(
                f"the linked programs have more than {MAX_SLOTS} instructions", where=where
            )


def reachable(
    main: Function, bodies: Mapping[Function, Body], callback: Function | None = None
) -> tuple[Function, ...]:
    """`main` and what it calls or takes the address of, in the order of first reference; then its
    exception `callback` and what that reaches."""
    order: dict[Function, None] = {}
    pending = [main] if callback is None else [callback, main]
    while pending:
        function = pending.pop()
        if function in order:
            continue
        order[function] = None
        pending += [reference.target for reference in reversed(bodies[function].references)]
    return tuple(order)


def link(
    main: Function,
    bodies: Mapping[Function, Body],
    lines: LineTable,
    budget: SlotBudget,
    *,
    section: str,
    license: str,
    big_endian: bool,
    where: str,
    callback: Function | None = None,
) -> Program:
    """The program that begins with `main`. Calls and function addresses get their offsets.

    Both count from the slot after the instruction's first one (RFC 9669, section 5.4).
    """
    functions = reachable(main, bodies, callback)
    starts: dict[Function, int] = {}
    end = 0
    for function in functions:
        starts[function] = end
        end += function.slots
    budget.take(end, where)
    insns: list[Insn] = []
    subprogs: list[Subprog] = []
    source: dict[int, SourceLine] = {}
    for function in functions:
        base, start = len(insns), starts[function]
        body = bodies[function]
        insns += body.insns
        for reference in body.references:
            insn = insns[base + reference.index]
            distance = starts[reference.target] - (start + reference.slot) - 1
            imm = u32(distance) if insn.spec.kind is Kind.LDDW else distance
            insns[base + reference.index] = replace(insn, imm=imm)
        subprogs.append(
            Subprog(
                function.name,
                start,
                start + function.slots,
                function.is_global,
                lines.func_type(function),
            )
        )
        for slot, line in lines.of(function):
            source[start + slot] = line
    return Program(
        main.name,
        section,
        tuple(insns),
        tuple(subprogs),
        source,
        license,
        big_endian,
    )
