"""Names of what instructions do: enums only. RFC 9669, sections 4 and 5.

Odd encodings end at decode: `off=1` on a division is SDIV, `off=8` on a move is MOVSX8,
a byte swap carries its width in its name. Past the decoder an operation has one name.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Kind(Enum):
    """What sort of instruction a row of the table describes; engines dispatch on it."""

    __hash__ = object.__hash__  # one object each, looked up for every instruction

    ALU = "alu"  # dst = op(dst, src or imm), width 32 or 64; unary ones ignore the operand
    ADDR_SPACE_CAST = "addr_space_cast"  # dst = cast of src; imm: (dst_as << 16) | src_as
    JUMP = "jump"  # if op(dst, src or imm), width 32 or 64: pc += off
    GOTO = (
        "goto"  # pc += off; gotol takes its offset from imm and reads as a GOTO with a wide `off`
    )
    MAY_GOTO = "may_goto"  # loop until the engine's iteration budget ends, then pc += off
    CALL = "call"  # helper number imm
    CALL_LOCAL = "call_local"  # subprogram at pc + 1 + imm
    CALL_KFUNC = "call_kfunc"  # kernel function with BTF id imm, module slot off
    EXIT = "exit"
    LDX = "ldx"  # dst = zero-extended *(size *)(src + off)
    LDSX = "ldsx"  # dst = sign-extended *(size *)(src + off)
    ST = "st"  # *(size *)(dst + off) = imm
    STX = "stx"  # *(size *)(dst + off) = src
    ATOMIC = "atomic"  # op on *(size *)(dst + off) with src, size 4 or 8
    LOAD_ACQ = "load_acquire"  # dst = *(size *)(src + off)
    STORE_REL = "store_release"  # *(size *)(dst + off) = src
    LDDW = "lddw"  # dst = 64-bit imm, or what its pseudo source (the src field) names
    LD_ABS = "ld_abs"  # r0 = packet[imm], network order
    LD_IND = "ld_ind"  # r0 = packet[src + imm], network order


class AluOp(Enum):
    """Arithmetic, moves and byte order. The value is the mnemonic without its width."""

    __hash__ = object.__hash__  # one object each, looked up for every instruction

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    SDIV = "sdiv"
    OR = "or"
    AND = "and"
    LSH = "lsh"
    RSH = "rsh"
    NEG = "neg"
    MOD = "mod"
    SMOD = "smod"
    XOR = "xor"
    MOV = "mov"
    MOVSX8 = "movsx8"
    MOVSX16 = "movsx16"
    MOVSX32 = "movsx32"
    ARSH = "arsh"
    LE16 = "le16"
    LE32 = "le32"
    LE64 = "le64"
    BE16 = "be16"
    BE32 = "be32"
    BE64 = "be64"
    BSWAP16 = "bswap16"
    BSWAP32 = "bswap32"
    BSWAP64 = "bswap64"


class JmpOp(Enum):
    """Conditions of conditional jumps. The value is the mnemonic without its width."""

    __hash__ = object.__hash__  # one object each, looked up for every instruction

    JEQ = "jeq"
    JGT = "jgt"
    JGE = "jge"
    JSET = "jset"
    JNE = "jne"
    JSGT = "jsgt"
    JSGE = "jsge"
    JLT = "jlt"
    JLE = "jle"
    JSLT = "jslt"
    JSLE = "jsle"


class AtomicOp(Enum):
    """Read-modify-write operations; FETCH_* and the exchanges also return the old value."""

    ADD = "add"
    OR = "or"
    AND = "and"
    XOR = "xor"
    FETCH_ADD = "fetch_add"
    FETCH_OR = "fetch_or"
    FETCH_AND = "fetch_and"
    FETCH_XOR = "fetch_xor"
    XCHG = "xchg"
    CMPXCHG = "cmpxchg"  # compares with r0 and always loads the old value into r0


class MemSize(IntEnum):
    """Width of a memory access; the value is its size in bytes."""

    B = 1
    H = 2
    W = 4
    DW = 8


class Operand(Enum):
    """Where the second operand comes from."""

    K = "imm"
    X = "src"


class Pseudo(IntEnum):
    """The src field of LDDW: what the 64-bit immediate names. RFC 9669, section 5.4.

    Loaded programs use only NONE, BTF_ID, FUNC, MAP_IDX and MAP_IDX_VALUE; the two forms with
    a map fd exist for text and bytes that come from elsewhere.
    """

    NONE = 0
    MAP_FD = 1
    MAP_VALUE = 2
    BTF_ID = 3
    FUNC = 4  # imm: pc-relative slot offset of a subprogram
    MAP_IDX = 5  # low imm: index into the object's maps
    MAP_IDX_VALUE = 6  # low imm: index into the object's maps; high imm: offset inside its value


FRAME_POINTER = 10
REGISTERS = 11
MAX_FRAMES = 8
STACK_BYTES = 512
MAX_TAIL_CALLS = 33
MAY_GOTO_ITERATIONS = 8 * 1024 * 1024
