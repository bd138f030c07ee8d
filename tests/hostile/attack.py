"""What a hostile user brings: objects of assembly text, wild numbers, a ring to try them on."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pybpfvm.events import Observer
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode, pcs
from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles import profile_named
from pybpfvm.program import MapType
from pybpfvm.session import Budgets, Machine, Ring
from pybpfvm.session.hostring import BackendName
from tests.support.elf_writer import (
    ALLOC,
    EXEC,
    OBJECT,
    R_BPF_64_64,
    WRITE,
    Rel,
    Sec,
    Sym,
    write_elf,
)
from tests.support.session_ring import Desk, need_backend

ABI = "iouring-v3"
CALLS = {name: number for number, name in profile_named(ABI).helpers.items()}
BUDGETS = Budgets(max_runs=3_000, livelock_runs=300, idle_timeout_ns=500_000_000)

# (name, type, key_size, value_size, max_entries)
MapRecord = tuple[str, int, int, int, int]
MAPS: tuple[MapRecord, ...] = (
    ("array", int(MapType.ARRAY), 4, 8, 4),
    ("hash", int(MapType.HASH), 4, 8, 4),
    ("ringbuf", int(MapType.RINGBUF), 0, 0, 4096),
    ("queue", int(MapType.QUEUE), 0, 8, 4),
    ("progs", int(MapType.PROG_ARRAY), 4, 4, 2),
)


def object_of(
    programs: Mapping[str, str] | str,
    maps: Sequence[MapRecord] = (),
    *,
    section: str = "iouring",
) -> bytes:
    """An ELF object whose programs are these texts; `map[NAME]` in them names a map."""
    texts = {"main": programs} if isinstance(programs, str) else programs
    indices = {record[0]: index for index, record in enumerate(maps)}
    code = b""
    symbols: list[Sym] = []
    relocations: list[Rel] = []
    for name, text in texts.items():
        insns = list(assemble(text, calls=CALLS, maps=indices))
        start = len(code)
        for index, (pc, insn) in enumerate(zip(pcs(insns), insns, strict=True)):
            if insn.spec.kind is Kind.LDDW and insn.src:
                wanted = maps[insn.imm & 0xFFFF_FFFF][0]
                relocations.append(Rel(start + 8 * pc, R_BPF_64_64, wanted))
                insns[index] = replace(insn, src=0, imm=0)
        code += encode(insns, big_endian=False)
        symbols.append(Sym(name, section, start, len(code) - start))
    sections = [
        Sec(section, code, ALLOC | EXEC, relocations=relocations),
        Sec("license", b"Dual MIT/GPL\0", ALLOC | WRITE),
    ]
    if maps:
        records = b"".join(struct.pack("<5I", *record[1:], 0) for record in maps)
        sections.append(Sec("maps", records, ALLOC | WRITE))
        symbols += [Sym(m[0], "maps", 20 * i, 20, OBJECT) for i, m in enumerate(maps)]
    return write_elf(sections, symbols)


@contextmanager
def raw_desk(
    programs: Mapping[str, str] | str,
    backend: BackendName,
    *,
    maps: Sequence[MapRecord] = (),
    cq_entries: Sequence[int] = (16, 16),
    budgets: Budgets = BUDGETS,
    observer: Observer | None = None,
    budget_insns: int = 20_000,
) -> Iterator[Desk]:
    """These programs, registered in their order and not checked, on a ring of 8 entries."""
    need_backend(backend)
    with Machine() as machine:
        obj = machine.load(object_of(programs, maps), abi=ABI)
        with Ring(
            8,
            cq_entries,
            backend=backend,
            abi=ABI,
            verify=False,
            budgets=budgets,
            budget_insns=budget_insns,
            observer=observer,
            machine=machine,
        ) as ring:
            ring.register_bpf(list(obj.programs.values()))
            yield Desk(ring, obj)


def wait_for(count: int, cq: int) -> str:
    """The end of a program that asks to be run again."""
    return f"""
      r2 = {count}
      *(u32 *)(r6 + 8) = r2
      r2 = {cq}
      *(u32 *)(r6 + 12) = r2
      r0 = 1
      exit
    """


ZERO_SQE = "r1 = 0\n" + "".join(f"*(u64 *)(r10 - {at}) = r1\n" for at in range(8, 65, 8))
SUBMIT_SQE = """
  r1 = r6
  r2 = r10
  r2 += -64
  r3 = 64
  call io_uring_submit
"""
EXIT = "r0 = 0\nexit\n"
SELF_RESUBMIT = f"""
  r6 = r1
  {ZERO_SQE}
  *(u8 *)(r10 - 64) = 37
  *(u8 *)(r10 - 63) = 64
  {SUBMIT_SQE}
  {EXIT}
"""
