"""Damaged and enormous objects, each lot in a process of its own with 256 MiB to use.

PYBPFVM_MUTATIONS sets the number of damaged objects (3000), PYBPFVM_SEED the seed (2026).
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pybpfvm.btf.types import Btf, BtfType, Enum, EnumValue, Func, FuncProto, Struct
from pybpfvm.btf.write import StringPool, write_btf
from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.table import SPECS
from tests.support.btf_writer import write_btf_ext
from tests.support.elf_writer import (
    ALLOC,
    EXEC,
    FUNC,
    LOCAL,
    OBJECT,
    R_BPF_64_64,
    SHT_NOBITS,
    WRITE,
    Rel,
    Sec,
    Sym,
    write_elf,
)

CASES = os.environ.get("PYBPFVM_MUTATIONS", "3000")
SEED = os.environ.get("PYBPFVM_SEED", "2026")
ROOT = Path(__file__).parents[2]
CODE = ALLOC | EXEC

_LOAD_ONE = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_DATA, (256 << 20, 256 << 20))
from pybpfvm.errors import InputError
from pybpfvm.loader import load
start = time.process_time()
try:
    obj = load(sys.argv[1], target_btf=lambda name: None)
    answer = f"loaded {len(obj.programs)} programs"
except InputError as error:
    answer = f"refused: {error}"
status = open("/proc/self/status").read()  # unlike ru_maxrss, it begins anew with the program
peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
print(f"{time.process_time() - start:.2f} s, {peak} MiB, {answer}")
"""


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_damaged_objects_end_in_an_input_error_or_load() -> None:
    said = _run("-m", "tests.loader.campaign_mutations", CASES, SEED)
    assert said.startswith(f"{CASES} cases, seed {SEED}")


def _many_instructions() -> bytes:
    """As much code as is allowed, in one function, with a line for every second instruction."""
    count = (1 << 19) - 1
    code = encode([Insn(SPECS["mov64_k"], 0, imm=i) for i in range(1000)]) * (count // 1000 + 1)
    code = code[: 8 * count] + encode([Insn(SPECS["exit"])])
    pool = StringPool()
    lines = [(16 * i, "f.c", f"line {i % 5000}", i, 1) for i in range(1 << 16)]
    ext = write_btf_ext(pool, lines={"p": lines})
    btf = write_btf(Btf.of([FuncProto(0), Func("main", 1, 1)]), strings=pool)
    return write_elf(
        [Sec("p", code, CODE), Sec(".BTF", btf, 0), Sec(".BTF.ext", ext, 0)],
        [Sym("main", "p", 0, len(code))],
    )


def _shared_by_many() -> bytes:
    """A thousand programs that all call one function of 4000 instructions."""
    exit_ = Insn(SPECS["exit"])
    sub = encode([Insn(SPECS["mov64_k"], 0)] * 3999 + [exit_])
    mains = b""
    symbols = [Sym("sub", "p", 16000, len(sub), FUNC, LOCAL)]
    for index in range(1000):
        slot = 2 * index
        mains += encode([Insn(SPECS["call_local"], imm=2000 - slot - 1), exit_])
        symbols.append(Sym(f"main{index}", "p", 8 * slot, 16))
    return write_elf([Sec("p", mains + sub, CODE)], symbols)


def _many_types() -> bytes:
    """BTF of nearly 16 MiB: 300,000 structs with names of their own, one enum of 65,535 values."""
    types: list[BtfType] = [Struct(f"type_number_{i}", 4) for i in range(300_000)]
    types.append(Enum("e", 4, tuple(EnumValue(f"value_{i}", i) for i in range(65_535))))
    return write_elf([Sec(".BTF", write_btf(Btf.of(types)), 0)], [])


def _overlapping_names() -> bytes:
    """Each type's name begins one byte further into the same long strings: 4096 bytes each."""
    strings = b"\0" + (b"x" * 4090 + b"\0") * 1000
    types = b"".join(struct.pack("<3I", 1 + i, 4 << 24, 4) for i in range(500_000))
    header = struct.pack("<HBBI4I", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    btf = header + types + strings
    return write_elf([Sec(".BTF", btf, 0), Sec(".data", bytes(8), ALLOC | WRITE)], [])


def _many_symbols() -> bytes:
    """131,000 variables, and as many instructions that refer to them."""
    count = 1 << 16
    lddw = encode([Insn(SPECS["lddw"], 1)])
    relocations = [Rel(16 * i, R_BPF_64_64, f"v{i}") for i in range(count)]
    symbols = [Sym(f"v{i}", ".bss", i, 1, OBJECT) for i in range(count)]
    code = lddw * count + encode([Insn(SPECS["exit"])])
    return write_elf(
        [
            Sec("p", code, CODE, relocations=relocations),
            Sec(".bss", b"", ALLOC | WRITE, SHT_NOBITS, size=16 << 20),
        ],
        [*symbols, Sym("main", "p", 0, len(code))],
    )


def _huge_file() -> bytes:
    return write_elf([Sec("p", bytes(33 << 20), ALLOC)], [])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_many_instructions, "loaded 1 programs"),
        (_shared_by_many, "refused: "),
        (_many_types, "loaded 0 programs"),
        (_overlapping_names, "refused: "),
        (_many_symbols, "loaded 1 programs"),
        (_huge_file, "more than 33554432 bytes"),
    ],
)
def test_the_largest_objects_stay_within_256_mib(make: object, said: str, tmp_path: Path) -> None:
    assert callable(make)
    path = tmp_path / "large.o"
    path.write_bytes(make())
    answer = _run("-c", _LOAD_ONE, str(path))
    print(answer)
    assert said in answer
