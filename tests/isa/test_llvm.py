"""Agreement with LLVM 19 on encodings and on the pseudo-C form, in both byte orders.

What LLVM 19 does not know or does not print, and is therefore left out:

- load_acquire_*, store_release_*: came with LLVM 20
- call_local, call_kfunc: printed like the call of a helper
- lddw with a pseudo source: printed as `ld_pseudo` without its second immediate
- ld_ind_*: the immediate is neither printed nor parsed, so it is compared where it is 0
- gotol: the parser takes 16-bit offsets only
- addr_space_cast: the parser takes address spaces that the kernel has, so small ones are asked
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import encode
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.isa.table import TABLE
from tests.support.insns import samples

MC, OBJDUMP = (shutil.which(f"llvm-{tool}-19") for tool in ("mc", "objdump"))
pytestmark = pytest.mark.skipif(
    MC is None or OBJDUMP is None, reason="llvm-mc-19 and llvm-objdump-19 are not installed"
)
TRIPLES = {"bpfel": False, "bpfeb": True}
UNKNOWN = (Kind.LOAD_ACQ, Kind.STORE_REL, Kind.CALL_LOCAL, Kind.CALL_KFUNC)


def llvm_object(source: str, triple: str, path: Path) -> Path:
    """`source` assembled by llvm-mc into an object at `path`."""
    assert MC is not None
    command = [MC, f"-triple={triple}", "-mcpu=v4", "-filetype=obj", "-o", str(path)]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def known(insn: Insn) -> bool:
    """Whether LLVM 19 can say this instruction."""
    kind = insn.spec.kind
    return kind not in UNKNOWN and not (kind is Kind.LD_IND and insn.imm)


def test_the_list_of_rows_left_out_is_short() -> None:
    left_out = {spec.mnemonic for spec in TABLE if not any(map(known, samples(spec)))}
    assert left_out == {
        "call_local",
        "call_kfunc",
        *(
            f"{name}_{size}"
            for name in ("load_acquire", "store_release")
            for size in ("b", "h", "w", "dw")
        ),
    }


@pytest.mark.parametrize("triple", TRIPLES)
def test_objdump_prints_what_we_print(triple: str, tmp_path: Path) -> None:
    program = [insn for spec in TABLE for insn in samples(spec) if known(insn)]
    data = encode(program, big_endian=TRIPLES[triple])
    source = "\n".join(
        f".byte {','.join(map(str, data[i : i + 8]))}" for i in range(0, len(data), 8)
    )
    path = llvm_object(source, triple, tmp_path / "x.o")
    assert OBJDUMP is not None
    command = [OBJDUMP, "-d", "--mcpu=v4", "--no-show-raw-insn", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = [
        re.sub(r" <\.text[^ ]*>$", "", match[1])
        for match in re.finditer(r"^ *\d+:\s+(.*)$", listing, re.MULTILINE)
    ]
    ours = [format_insn(insn, style="clang") for insn in program]
    assert theirs == ours


@pytest.mark.parametrize("triple", TRIPLES)
def test_llvm_reads_our_text_as_we_do(triple: str, tmp_path: Path) -> None:
    program = [
        insn
        for spec in TABLE
        for insn in samples(spec)
        if known(insn)
        and (spec.mnemonic != "gotol" or -(1 << 15) <= insn.off < 1 << 15)
        and (spec.kind is not Kind.ADDR_SPACE_CAST or 0 <= insn.imm < 1 << 15)
    ]
    source = "\n".join(format_insn(insn, style="clang") for insn in program) + "\n"
    path = llvm_object(source, triple, tmp_path / "x.o")
    section = ELFFile(io.BytesIO(path.read_bytes())).get_section_by_name(".text")
    assert section is not None
    theirs = section.data()
    ours = encode(program, big_endian=TRIPLES[triple])
    slots = [(ours[i : i + 8].hex(), theirs[i : i + 8].hex()) for i in range(0, len(ours), 8)]
    assert [pair for pair in slots if pair[0] != pair[1]] == []
    assert len(theirs) == len(ours)
    assert assemble(source) == tuple(program)
