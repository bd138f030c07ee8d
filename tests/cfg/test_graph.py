"""Laws of the control-flow graph, on generated programs, arbitrary jumps and real objects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from pybpfvm.cfg import Cfg, EdgeKind
from pybpfvm.errors import InputError
from pybpfvm.fuzz.visible import generate, insn
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.objectfile import read_object
from pybpfvm.program import Program, Subprog

ROOT = Path(__file__).parents[2]
OBJECTS = [*sorted((ROOT / "examples").glob("*/*.o")), ROOT / "tests/loader/data/calls.o"]
SEEDS = range(300)
INSIDE = (EdgeKind.FALLTHROUGH, EdgeKind.TAKEN)


def tangled(seed: int) -> Program:
    """Code whose jumps lead anywhere at all: dead, irreducible, running past the end."""
    random = Random(seed)
    length = random.randint(1, 40)
    code: list[Insn] = []
    starts: list[int] = []
    pc = 0
    for _ in range(length):
        starts.append(pc)
        code.append(insn(random.choice(("mov64_k", "lddw", "mov64_k"))))
        pc += code[-1].slots
    for index, pc in enumerate(starts):
        if code[index].slots == 1 and random.random() < 0.5:
            name = random.choice(
                ("goto", "gotol", "jeq64_k", "jslt32_x", "may_goto", "call_local", "exit")
            )
            off = random.choice(starts) - pc - 1
            if name == "exit":
                code[index] = insn("exit")
            elif name == "call_local":
                code[index] = insn(name, imm=off)
            else:
                code[index] = insn(name, off=off)
    return Program(f"tangle{seed}", "test", tuple(code))


def programs() -> Iterator[Program]:
    yield from (generate(seed).program for seed in SEEDS)
    yield from (tangled(seed) for seed in SEEDS)
    for path in OBJECTS:
        yield from read_object(path).programs


ALL = tuple(programs())


def next_pcs(code: dict[int, Insn], pc: int, *, calls: bool) -> set[int]:
    """Where control can go from `pc`, said without blocks."""
    one = code[pc]
    after = set() if one.spec.kind in (Kind.GOTO, Kind.EXIT) else {pc + one.slots} & set(code)
    target = target_pc(one, pc)
    if target is not None and (calls or one.spec.kind in (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO)):
        after.add(target)
    return after


def walk(code: dict[int, Insn], start: int, *, calls: bool) -> set[int]:
    seen, work = {start}, [start]
    while work:
        for pc in next_pcs(code, work.pop(), calls=calls) - seen:
            seen.add(pc)
            work.append(pc)
    return seen


def test_blocks_partition_the_code() -> None:
    for program in ALL:
        graph = Cfg(program)
        assert [pc for block in graph.blocks for pc, _ in graph.insns(block)] == list(graph.pcs)
        assert graph.blocks[0].start == 0
        assert graph.blocks[-1].end == program.slots
        assert all(a.end == b.start for a, b in pairwise(graph.blocks)), program.name
        assert all(block.first < block.last for block in graph.blocks)


def test_functions_partition_the_blocks() -> None:
    for program in ALL:
        graph = Cfg(program)
        bounds = [(function.first, function.last) for function in graph.functions]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == len(graph.blocks)
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        for number, (first, last) in enumerate(bounds):
            assert {graph.blocks[i].function for i in range(first, last)} == {number}


def test_control_enters_blocks_at_their_first_instruction_and_leaves_at_their_last() -> None:
    for program in ALL:
        graph = Cfg(program)
        starts = {block.start for block in graph.blocks}
        for block in graph.blocks:
            pcs = [pc for pc, _ in graph.insns(block)]
            for pc, one in graph.insns(block):
                target = target_pc(one, pc)
                assert target is None or target in starts, (program.name, pc)
                leaves = one.spec.kind in (Kind.JUMP, Kind.GOTO, Kind.MAY_GOTO, Kind.EXIT)
                assert not leaves or pc == pcs[-1], (program.name, pc)


def test_edges_are_the_steps_between_blocks() -> None:
    for program in ALL:
        graph = Cfg(program)
        code = dict(zip(graph.pcs, program.insns, strict=True))
        for block in graph.blocks:
            last = graph.pcs[block.last - 1]
            edges = graph.successors[block.index]
            assert all(edge.source == block.index for edge in edges)
            to = {graph.blocks[e.target].start for e in edges if e.kind in INSIDE}
            assert to == next_pcs(code, last, calls=False), (program.name, block)
            called = [(e.pc, graph.blocks[e.target].start) for e in edges if e.kind not in INSIDE]
            assert called == [
                (pc, target_pc(one, pc))
                for pc, one in graph.insns(block)
                if one.spec.kind in (Kind.CALL_LOCAL, Kind.LDDW) and target_pc(one, pc) is not None
            ]


def test_reachability_equals_a_naive_walk() -> None:
    dead = 0
    for program in ALL:
        graph = Cfg(program)
        seen = walk(dict(zip(graph.pcs, program.insns, strict=True)), 0, calls=True)
        for block in graph.blocks:
            expected = {pc for pc, _ in graph.insns(block)} & seen
            assert bool(expected) == block.reachable, (program.name, block)
            dead += not block.reachable
    assert dead > 50  # the tangles have some


def test_without_back_edges_there_is_no_cycle_and_with_them_there_is() -> None:
    loops = 0
    for program in ALL:
        graph = Cfg(program)
        code = dict(zip(graph.pcs, program.insns, strict=True))
        missing = [0] * len(graph.blocks)
        forward = [e for e in graph.edges if e.kind in INSIDE and not e.back]
        for edge in forward:
            missing[edge.target] += 1
        ready = [number for number, count in enumerate(missing) if count == 0]
        done = 0
        while ready:
            number = ready.pop()
            done += 1
            for edge in graph.successors[number]:
                if edge.kind in INSIDE and not edge.back:
                    missing[edge.target] -= 1
                    if missing[edge.target] == 0:
                        ready.append(edge.target)
        assert done == len(graph.blocks), f"{program.name} has a loop without a back edge"
        for edge in graph.edges:
            if edge.back:
                loops += 1
                head, tail = graph.blocks[edge.target].start, edge.pc
                assert tail in walk(code, head, calls=False), (program.name, edge)
    assert loops > 100


def test_every_falling_off_is_said() -> None:
    for program in ALL:
        off = [block.index for block in Cfg(program).blocks if block.falls_off]
        ends = program.insns[-1].spec.kind in (Kind.EXIT, Kind.GOTO)
        assert off == ([] if ends else [len(Cfg(program).blocks) - 1])


LOOP = """
r1 = 3
again:
if r1 == 0 goto done
call work
r1 += -1
goto again
done:
exit
work:
r0 = 1
exit
"""


def test_a_loop_and_a_call_by_name() -> None:
    program = Program(
        "main", "test", assemble(LOOP), (Subprog("main", 0, 6), Subprog("work", 6, 8))
    )
    graph = Cfg(program)
    assert [(b.start, b.end) for b in graph.blocks] == [(0, 1), (1, 2), (2, 5), (5, 6), (6, 8)]
    assert [(e.source, e.target, e.kind.value, e.back) for e in graph.edges] == [
        (0, 1, "fallthrough", False),
        (1, 3, "taken", False),
        (1, 2, "fallthrough", False),
        (2, 4, "call", False),
        (2, 1, "taken", True),
    ]
    assert [(f.name, f.first, f.last) for f in graph.functions] == [("main", 0, 4), ("work", 4, 5)]
    assert graph.loop_heads() == {1}


def test_functions_without_names_are_called_by_their_place() -> None:
    graph = Cfg(Program("main", "test", assemble(LOOP)))
    assert [f.name for f in graph.functions] == ["main", "func_6"]


def test_a_jump_to_nowhere_is_an_input_error() -> None:
    with pytest.raises(InputError, match="leads to pc 8"):
        Cfg(Program("bad", "test", (insn("goto", off=7), insn("exit"))))


def test_an_empty_program_has_no_blocks() -> None:
    graph = Cfg(Program("none", "test", ()))
    assert (graph.blocks, graph.functions) == ((), ())


def test_long_code_neither_recurses_nor_takes_quadratic_time() -> None:
    length = 60_000
    chain = tuple(insn("jne64_k", 1, off=length - i - 2 if i % 2 else 0) for i in range(length - 1))
    # gotol reaches everywhere: a jump of 16 bits would not.
    short = [one if one.off < 1 << 15 else insn("gotol", off=one.off) for one in chain]
    graph = Cfg(Program("long", "test", (*short, insn("exit"))))
    assert len(graph.blocks) == length
    assert not graph.loop_heads()
