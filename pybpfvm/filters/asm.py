"""Text to classic BPF, in the manner of the kernel's bpf_asm.

    ld [16]                 ; a word of the context
    jeq #2, good            ; one label: else go on with the next line
    bad: ret #0
    good: ret #1

Aliases: ldi and ldxi for ld and ldx, jmp for ja; jne (jneq), jlt and jle become the opposite
branch. `cbpf.lark` says what a line looks like, this module what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from pybpfvm.bits import U32
from pybpfvm.errors import InputError
from pybpfvm.filters.cbpf import FORMS, MAX_INSNS, Insn, Kind, Mode
from pybpfvm.isa.operand import (
    Mistake,
    check_size,
    define,
    integer,
    known,
    quote,
    token_of,
)

MAX_TEXT_CHARS = 1 << 20
MAX_LINES = 20_000
MAX_LINE_CHARS = 4096
_ALIASES = {"ldi": "ld", "ldxi": "ldx", "jmp": "ja"}
# Branches that classic BPF does not have -> the one that goes the other way.
_OPPOSITE = {"jne": "jeq", "jneq": "jeq", "jlt": "jge", "jle": "jgt"}
_MODES = {
    "imm": Mode.IMM,
    "len": Mode.LEN,
    "word": Mode.WORD,
    "indirect": Mode.INDIRECT,
    "scratch": Mode.SCRATCH,
    "header": Mode.HEADER,
    "x": Mode.X,
    "a": Mode.A,
}
_NAMES = sorted({name for name, _ in FORMS} | set(_ALIASES) | set(_OPPOSITE))


def assemble(text: str, where: str = "") -> tuple[Insn, ...]:
    """The instructions that `text` describes, one a line: see `assemble_lines`."""
    return assemble_lines(text, where)[0]


def assemble_lines(text: str, where: str = "") -> tuple[tuple[Insn, ...], tuple[int, ...]]:
    """The instructions that `text` describes, one a line, and the number of each one's line.

    Raises InputError with `where`, line and column for anything else, for labels that are missing,
    defined twice, behind the jump or too far, for numbers that do not fit 32 bits, and for more
    than MAX_TEXT_CHARS or MAX_LINES. Whether a kernel would take the program is `check`'s.
    """
    check_size(text, where, MAX_TEXT_CHARS, MAX_LINES)
    drafts: list[_Draft] = []
    labels: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found, draft = _parse_line(line, number)
            define(labels, found, len(drafts))
        except Mistake as mistake:
            raise mistake.located(where, number) from None
        if draft is not None:
            drafts.append(draft)
        if len(drafts) > MAX_INSNS:
            raise InputError(
                f"more than {MAX_INSNS} instructions",
                where=f"{where}, line {number}" if where else f"line {number}",
                remedy="kernels take no more in a filter",
            )
    insns = []
    for index, draft in enumerate(drafts):
        try:
            insns.append(draft.finish(index, labels))
        except Mistake as mistake:
            raise mistake.located(where, draft.line) from None
    return tuple(insns), tuple(draft.line for draft in drafts)


@dataclass(frozen=True, slots=True)
class _Draft:
    """An instruction whose targets are still names: jt and jf, or k of a `ja`."""

    insn: Insn
    line: int
    targets: tuple[Token, ...] = ()
    opposite: bool = False

    def finish(self, index: int, labels: Mapping[str, int]) -> Insn:
        """With its targets as distances; `index` is its place."""
        if not self.targets:
            return self.insn
        limit = U32 if len(self.targets) == 1 and not self._branches else 0xFF
        ahead = [_distance(name, index, labels, limit) for name in self.targets]
        if not self._branches:
            return Insn(self.insn.code, ahead[0])
        jt, jf = ahead[0], ahead[1] if len(ahead) > 1 else 0
        if self.opposite:
            jt, jf = jf, jt
        return Insn(self.insn.code, self.insn.k, jt, jf)

    @property
    def _branches(self) -> bool:
        spec = self.insn.spec
        return spec is not None and spec.kind is Kind.BRANCH


def _distance(name: Token, index: int, labels: Mapping[str, int], limit: int) -> int:
    if name not in labels:
        raise Mistake(name, f"no label is called {quote(name)}", known(name, labels))
    ahead = labels[name] - index - 1
    if ahead < 0:
        raise Mistake(
            name, f"{quote(name)} is not behind this line", "classic BPF only jumps forward"
        )
    if ahead > limit:
        raise Mistake(
            name,
            f"{quote(name)} is {ahead} instructions further, a branch reaches {limit}",
            "branch to a `ja` nearby, which reaches everything",
        )
    return ahead


@cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("cbpf.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start="line", maybe_placeholders=True)


def _parse_line(line: str, number: int) -> tuple[list[Token], _Draft | None]:
    """The labels of a line and its instruction, if it has one."""
    if not line or line.isspace() or line.lstrip(" \t").startswith((";", "//")):
        return [], None
    if len(line) > MAX_LINE_CHARS:
        raise Mistake(
            MAX_LINE_CHARS, f"a line of {len(line)} characters", f"at most {MAX_LINE_CHARS}"
        )
    try:
        tree = _parser().parse(line)
    except UnexpectedInput as error:
        raise _syntax_mistake(error) from None
    nodes = [node for node in tree.children if isinstance(node, Tree)]
    labels = [token_of(node.children[0]) for node in nodes if node.data == "label"]
    statement = next((node for node in nodes if node.data == "insn"), None)
    return labels, None if statement is None else _draft(statement, number)


def _draft(statement: Tree[Token], line: int) -> _Draft:
    name = token_of(statement.children[0])
    operands = [node for node in statement.children[1:] if isinstance(node, Tree)]
    if name not in _NAMES:
        raise Mistake(name, f"no instruction is called {quote(name)}", known(name, _NAMES))
    written = str(name)
    opposite = written in _OPPOSITE
    mnemonic = _OPPOSITE.get(written, _ALIASES.get(written, written))
    targets = tuple(token_of(node.children[0]) for node in operands if node.data == "target")
    rest = [node for node in operands if node.data != "target"]
    if mnemonic == "ja":
        _expect(name, not rest and len(targets) == 1, "one label")
        return _Draft(Insn(FORMS["ja", Mode.TARGET].code), line, targets)
    mode = _MODES[str(rest[0].data)] if rest else Mode.NONE
    spec = FORMS.get((mnemonic, mode))
    forms = [form.mode.value for form in FORMS.values() if form.name == mnemonic]
    takes = " or ".join(text for text in forms if text) or "nothing"
    branches = spec is not None and spec.kind is Kind.BRANCH
    if spec is None or len(rest) > 1:
        _expect(name, False, takes)
    assert spec is not None
    if branches:
        ordered = operands[0].data != "target"
        _expect(name, ordered and 1 <= len(targets) <= 2, f"{takes}, then one label or two")
        _expect(name, not (opposite and len(targets) == 2), "one label: swap the two of its twin")
    else:
        _expect(name, not targets, takes)
    k = _number(rest[0]) if rest and mode not in (Mode.X, Mode.A, Mode.LEN) else 0
    return _Draft(Insn(spec.code, k), line, targets, opposite)


def _expect(name: Token, holds: bool, takes: str) -> None:
    if not holds:
        raise Mistake(name, f"these are no operands of {quote(name)}", f"it takes {takes}")


def _number(node: Tree[Token]) -> int:
    tokens = [token_of(child) for child in node.children if token_of(child).type == "INT"]
    if node.data == "header":  # 4*([k]&0xf), with just these numbers
        if _value(tokens[0]) != 4 or _value(tokens[2]) != 0xF:
            raise Mistake(tokens[0], "only 4*([k]&0xf) can be written so")
        return _value(tokens[1])
    return _value(tokens[0])


def _value(token: Token) -> int:
    value = integer(token)
    if not -(1 << 31) <= value <= U32:
        raise Mistake(token, f"{quote(token)} does not fit 32 bits")
    return value & U32


def _syntax_mistake(error: UnexpectedInput) -> Mistake:
    if isinstance(error, UnexpectedCharacters):
        return Mistake(error.column, f"unexpected {error.char!r}", _FORM)
    assert isinstance(error, UnexpectedToken), error
    if error.token.type == "$END":
        return Mistake(error.token.end_column or 1, "the line ends too early", _FORM)
    return Mistake(error.column, f"unexpected {quote(error.token)}", _FORM)


_FORM = "e.g. ld [16], jeq #2, good, bad, ret #0; comments begin with ;"
