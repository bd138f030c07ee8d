"""Text to instructions: both dialects of pseudo-C and the mnemonic form, mixed at will.

    loop:
      r1 = *(u64 *)(r10 - 8)          ; as clang writes it
      7: (07) r1 += -1                ; as the kernel's log writes it: pc and opcode are checked
      jne64 r1, 0, loop               ; mnemonic form
      exit

docs/isa.md is the reference. `asm.lark` says what a line looks like, this module what it means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from pybpfvm.bits import u32
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import check_fields
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.isa.operand import (
    Draft,
    Mistake,
    check_size,
    define,
    integer,
    known,
    quote,
    token_of,
)
from pybpfvm.isa.statement import BUILDERS
from pybpfvm.isa.table import SPECS

MAX_TEXT_CHARS = 4 << 20
MAX_LINES = 100_000
MAX_LINE_CHARS = 4096  # of a line that is not just a comment: what the parser builds stays small


def assemble(
    text: str,
    *,
    where: str = "",
    calls: Mapping[str, int] | None = None,
    maps: Mapping[str, int] | None = None,
) -> tuple[Insn, ...]:
    """The instructions that `text` describes, one a line.

    `calls` gives the ids of helpers that are called by name alone, `maps` the indices of maps
    that are named. Raises InputError with `where`, line and column for anything else than
    assembly, for labels that are missing or defined twice, for values that do not fit, and for
    more than MAX_TEXT_CHARS, MAX_LINES or MAX_LINE_CHARS. Where jumps lead is not checked,
    except that labels exist: see `codec.check_targets`.
    """
    check_size(text, where, MAX_TEXT_CHARS, MAX_LINES)
    drafts: list[Draft] = []
    labels: dict[str, int] = {}
    pc = 0
    for number, line in enumerate(text.split("\n"), 1):
        try:
            found, draft = _parse_line(line.rstrip("\r"), pc)
            define(labels, found, pc)
        except Mistake as mistake:
            raise mistake.located(where, number) from None
        if draft is not None:
            drafts.append(replace(draft, line=number, pc=pc))
            pc += draft.insn.slots
    names = _Names(labels, calls or {}, maps or {})
    insns = []
    for draft in drafts:
        try:
            insns.append(_finish(draft, names))
        except Mistake as mistake:
            raise mistake.located(where, draft.line) from None
    return tuple(insns)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the names in a text stand for: a pc, a helper id, a map index."""

    labels: Mapping[str, int]
    calls: Mapping[str, int]
    maps: Mapping[str, int]


@cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("asm.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start="line", maybe_placeholders=True)


def _parse_line(line: str, pc: int) -> tuple[list[Token], Draft | None]:
    """The labels of a line and its instruction, if it has one."""
    if not line or line.lstrip(" \t").startswith((";", "#", "//")) or line.isspace():
        return [], None
    if len(line) > MAX_LINE_CHARS:
        raise Mistake(
            MAX_LINE_CHARS, f"a line of {len(line)} characters", f"at most {MAX_LINE_CHARS}"
        )
    try:
        tree = _parser().parse(line)
    except UnexpectedInput as error:
        raise _syntax_mistake(error, line) from None
    said_pc, opcode, *rest = tree.children
    trees = [node for node in rest if isinstance(node, Tree)]
    labels = [token_of(node.children[0]) for node in trees if node.data == "label"]
    statement = next((node for node in trees if node.data != "label"), None)
    if statement is None:
        return labels, None
    if said_pc is not None and integer(token_of(said_pc), token_of(said_pc)[:-1]) != pc:
        raise Mistake(
            said_pc,
            f"the line says pc {quote(token_of(said_pc)[:-1])}, but this is pc {pc}",
            "take the numbers away, or list every instruction in order",
        )
    number = None if opcode is None else int(token_of(opcode)[1:-1], 16)
    draft = BUILDERS[str(statement.data)](statement, number)
    if number is not None and number != draft.insn.spec.opcode:
        raise Mistake(
            token_of(opcode),
            f"the line says {number:#04x}, but its text is opcode {draft.insn.spec.opcode:#04x}",
            "take the opcode away, or mend the text",
        )
    return labels, replace(draft, place=statement)


def _finish(draft: Draft, names: _Names) -> Insn:
    """The instruction, with its name replaced by what it stands for, and its fields checked."""
    insn = draft.insn
    if draft.name is not None:
        insn = _named(insn, draft.name, draft.pc, names)
    try:
        check_fields(insn)
    except InputError as error:
        raise Mistake(draft.place, error.reason, error.remedy) from None
    return insn


def _named(insn: Insn, name: Token, pc: int, names: _Names) -> Insn:
    kind = insn.spec.kind
    if kind is Kind.LDDW and insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE):
        if name not in names.maps:
            raise Mistake(name, f"no map is called {quote(name)}", known(name, names.maps))
        return replace(insn, imm=insn.imm | u32(names.maps[name]))
    if name in names.labels:
        off = names.labels[name] - (pc + 1)
        if kind is Kind.LDDW:
            return replace(insn, imm=u32(off))
        return replace(insn, imm=off) if kind is Kind.CALL_LOCAL else replace(insn, off=off)
    if kind is Kind.CALL_LOCAL and name in names.calls:
        return Insn(SPECS["call"], imm=names.calls[name])
    if kind is Kind.CALL_LOCAL:
        raise Mistake(
            name,
            f"no label or helper is called {quote(name)}",
            known(name, {**names.labels, **names.calls}),
        )
    raise Mistake(name, f"no label is called {quote(name)}", known(name, names.labels))


def _syntax_mistake(error: UnexpectedInput, line: str) -> Mistake:
    register = _NO_REGISTER.match(line)
    if register is not None:
        text = f"register {quote(register[2])} does not exist"
        return Mistake(register.start(2) + 1, text, "there are r0 to r10")
    if isinstance(error, UnexpectedCharacters):
        return Mistake(error.column, f"unexpected {error.char!r}", _expected(error.allowed))
    assert isinstance(error, UnexpectedToken), error
    if error.token.type == "$END":
        end = error.token.end_column or 1
        return Mistake(end, "the line ends too early", _expected(error.accepts))
    return Mistake(error.column, f"unexpected {quote(error.token)}", _expected(error.accepts))


def _expected(terminals: object) -> str:
    """What may stand there, in words, most telling first."""
    if not isinstance(terminals, (set, frozenset)):
        return ""
    words = {_WORDS.get(name, "") for name in terminals}
    literals = {_LITERALS[name] for name in terminals if name in _LITERALS}
    listed = sorted(words - {""}) + sorted(literals)
    return "expected " + " or ".join(listed) if listed else ""


# A register beyond r10, outside of comments, where a statement was not understood.
_NO_REGISTER = re.compile(r"([^;#/]*?[^\w.$;#/]|)([rw](?:1[1-9]|[2-9][0-9]|[0-9]{3,}))(?![\w.$])")

_WORDS = {
    "REG": "a register",
    "INT": "a number",
    "NAME": "a name",
    "TYPE": "a type like u32 *",
    "CALLEE": "name#number",
    "ALU_SIGN": "an operator like +=",
    "CMP_SIGN": "a comparison like s>=",
    "$END": "the end of the line",
}
_LITERALS = {
    "EQUAL": "'='",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "COMMA": "','",
    "COLON": "':'",
    "STAR": "'*'",
    "GOTO": "'goto'",
    "IF": "'if'",
    "CALL": "'call'",
    "LOCK": "'lock'",
}
