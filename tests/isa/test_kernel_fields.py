"""Which raw instructions are legal: our decoder against the running kernel's.

Random slots stand in a small program that makes every register readable. The kernel's checks
come in passes, so its first complaint says whether it got as far as looking at the fields:
FIELDS are complaints about the instruction itself, EARLY ones were made before the fields were
looked at and decide nothing, any other answer means that the fields were found in order.

One difference is known and kept: `known_difference`.

PYBPFVM_ISA_PROGRAMS sets how many programs are tried, PYBPFVM_ISA_SEED where they start.
"""

from __future__ import annotations

import os
import random
import re
import struct
from collections import Counter

import pytest

from pybpfvm import bpfsys
from pybpfvm.errors import InputError
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.codec import decode, encode
from pybpfvm.isa.table import BY_OPCODE, TABLE

PROGRAMS = int(os.environ.get("PYBPFVM_ISA_PROGRAMS", "3000"))
SEED = int(os.environ.get("PYBPFVM_ISA_SEED", "1"))
REASON = bpfsys.available()
pytestmark = [
    pytest.mark.kernel_bpf,
    pytest.mark.skipif(REASON is not None, reason=f"no bpf(2): {REASON}"),
]

FIELDS = re.compile(
    r"unknown opcode|reserved fields|^R\d+ is invalid|invalid atomic op|invalid may_goto imm"
    r"|bpf_ld_imm64 insn$|BPF_\w+ uses invalid|invalid BPF_\w+ opcode"
)
EARLY = re.compile(
    r"jump out of range|unreachable insn|last insn is not an exit|call to invalid destination"
    r"|jump into the middle of ldimm64|addr_space_cast insn can only"
    r"|kernel function|kernel btf_id|not a function|map_fd|bpf_map|BTF|fd_idx|fd_array|btf_id"
)
NOISE = re.compile(r"processed|func#|\d+: |verification time|stack depth|mark_precise|from \d|$")

PROLOGUE = encode(
    assemble("""
        r6 = r1
        r1 = r10
        r1 += -32
        r2 = 2
        r3 = 3
        r4 = 4
        r5 = 5
        r7 = 7
        r8 = 8
        r9 = 9
        r0 = 0
        *(u64 *)(r10 - 8) = 0
        *(u64 *)(r10 - 16) = 0
        *(u64 *)(r10 - 24) = 0
        *(u64 *)(r10 - 32) = 0
    """)
)
EPILOGUE = encode(assemble("r0 = 0\n" * 8 + "exit"))
LDDW, EXIT = 0x18, 0x95

_ANY_OFF = (0, 1, 2, 8, 16, 32, -1)
_ANY_IMM = (0, 1, 2, 16, 32, 64, 0x40, 0xE0, 0xF1, 0x100, 0x110, -1)


def raw_instruction(random_: random.Random) -> bytes:
    """One slot, or two for opcode 0x18: mostly a legal encoding with one field disturbed."""
    opcode = random_.choice((random_.randrange(256), random_.choice(TABLE).opcode))
    dst = src = off = imm = 0
    rows = BY_OPCODE.get(opcode, ())
    if rows and random_.random() < 0.8:
        row = random_.choice(rows)
        dst = random_.randrange(11) if "dst" in row.fields else 0
        src = random_.randrange(11) if "src" in row.fields else row.src_is or 0
        off = random_.choice((0, 1, -8)) if "off" in row.fields else row.off_is or 0
        imm = random_.choice((0, 1, 2, 7)) if "imm" in row.fields else row.imm_is or 0
        if opcode == LDDW:
            src = random_.choice((0, 0, 0, *range(8)))
    disturbed = random_.choice(("dst", "src", "off", "imm", "nothing", "nothing"))
    if disturbed == "dst":
        dst = random_.randrange(16)
    elif disturbed == "src":
        src = random_.randrange(16)
    elif disturbed == "off":
        off = random_.choice((*_ANY_OFF, random_.randrange(-(1 << 15), 1 << 15)))
    elif disturbed == "imm":
        imm = random_.choice((*_ANY_IMM, random_.randrange(-(1 << 31), 1 << 31)))
    slot = struct.pack("<BBhi", opcode, src << 4 | dst, off, imm)
    if opcode == LDDW:
        second = [0, 0, 0, random_.choice((0, 0, 1, -1))]
        if random_.random() < 0.3:
            field = random_.randrange(3)
            second[field] = random_.choice((0x95, 0x18, 0x05)) if field == 0 else 1
        slot += struct.pack("<BBhi", *second)
    return slot


def kernel_says(slot: bytes) -> tuple[str, str]:
    """("legal" | "illegal" | "early", the kernel's first complaint or "accepted")."""
    # What follows an exit would be unreachable, and the kernel notices that first.
    program = PROLOGUE + slot + (b"" if slot[0] == EXIT else EPILOGUE)
    with bpfsys.prog_load(
        program,
        prog_type=bpfsys.PROG_TYPE_SOCKET_FILTER,
        log_level=1,
        flags=bpfsys.BPF_F_ANY_ALIGNMENT,
    ) as result:
        if result.accepted:
            return "legal", "accepted"
        log = [line for line in result.log.splitlines() if not NOISE.match(line)]
    message = log[-1] if log else f"errno {result.errno}"
    if FIELDS.search(message):
        return "illegal", message
    return "early" if EARLY.search(message) or not log else "legal", message


def known_difference(slot: bytes) -> bool:
    """`exit` with an offset: the kernel ignores it, RFC 9669 section 3.1 says it must be 0."""
    return slot[0] == EXIT and slot[1] == 0 and slot[2:4] != b"\0\0" and slot[4:] == bytes(4)


def test_decoder_and_kernel_agree_on_random_instructions() -> None:
    verdicts: Counter[str] = Counter()
    differences = []
    for number in range(PROGRAMS):
        slot = raw_instruction(random.Random(f"{SEED}/{number}"))
        kernel, message = kernel_says(slot)
        try:
            decode(slot)
            ours, why = "legal", ""
        except InputError as error:
            ours, why = "illegal", str(error)
        verdicts[f"ours {ours}, kernel {kernel}"] += 1
        if kernel not in (ours, "early") and not known_difference(slot):
            differences.append(f"{SEED}/{number} {slot.hex(' ')}: {message!r}, ours: {ours} {why}")
    print(f"seed {SEED}, {PROGRAMS} programs: {dict(verdicts)}")
    assert differences == []
    # The comparison means something only where both answers occur often.
    assert verdicts["ours legal, kernel legal"] > PROGRAMS // 5
    assert verdicts["ours illegal, kernel illegal"] > PROGRAMS // 5
