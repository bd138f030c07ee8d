"""Types as C text, for people: `declare` one name, `define` one type."""

from __future__ import annotations

from pybpfvm.btf.types import (
    Array,
    Btf,
    BtfType,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncLinkage,
    FuncProto,
    Fwd,
    Int,
    Ptr,
    Restrict,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Var,
    VarLinkage,
    Volatile,
)

MAX_DEPTH = 32  # pointers, arrays, signatures and anonymous members inside each other
MAX_TEXT = 1 << 16  # characters of one definition; what follows is cut off
_CUT = "/* ... */"


def type_name(btf: Btf, type_id: int) -> str:
    """The type as a cast would name it: `const struct foo *`."""
    return declare(btf, type_id, "")


def declare(btf: Btf, type_id: int, name: str) -> str:
    """The declaration of `name` with this type, no semicolon: `int (*name)(struct foo *)`.

    Types too deep to be written out are cut short. InputError for ids that are not there.
    """
    return _Writer(btf).declare(type_id, name, 0)


def define(btf: Btf, type_id: int) -> str:
    """The definition of a type, members with their offsets, as C text of several lines.

    Types with nothing to define (pointers, qualifiers) are written as a name. Text beyond
    65,536 characters is cut off.
    """
    text = _Writer(btf).define(type_id)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + _CUT


class _Writer:
    """Counts what it has written, so that no type can make it write without end."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._left = MAX_TEXT

    def define(self, type_id: int) -> str:
        found = self._btf.type(type_id)
        match found:
            case Struct() | Union() | Enum() | Enum64():
                return self._body(found, 0, 0) + ";"
            case Typedef():
                return f"typedef {self._inline(found.type_id, found.name, 0, 0)};"
            case Func():
                static = "static " if found.linkage == FuncLinkage.STATIC else ""
                extern = "extern " if found.linkage == FuncLinkage.EXTERN else ""
                return f"{static}{extern}{self.declare(found.type_id, found.name, 0)};"
            case Var():
                static = "static " if found.linkage == VarLinkage.STATIC else ""
                extern = "extern " if found.linkage == VarLinkage.EXTERN else ""
                return f"{static}{extern}{self.declare(found.type_id, found.name, 0)};"
            case Datasec():
                lines = [f"section {found.name} {{ /* {found.size} bytes */"]
                for variable in found.variables:
                    if self._left < 0:
                        lines.append(f"\t{_CUT}")
                        break
                    text = self.define(variable.type_id)
                    lines.append(f"\t{text} /* +{variable.offset}, {variable.size} bytes */")
                    self._left -= len(lines[-1])
                return "\n".join([*lines, "}"])
            case DeclTag():
                where = "" if found.component < 0 else f" component {found.component}"
                return f'/* tag "{found.name}" on {self._btf.name(found.type_id)}{where} */'
        return self.declare(type_id, "", 0)

    def declare(self, type_id: int, name: str, depth: int) -> str:
        """C reads from the name outwards: pointers go before it, arrays and parameters after."""
        declarator = name
        prefix_needs_parens = False
        while True:
            depth += 1
            self._left -= 1
            if depth > MAX_DEPTH or self._left < 0:
                return f"{_CUT} {declarator}".rstrip()
            found = self._btf.type(type_id)
            match found:
                case Ptr():
                    declarator = f"*{declarator}"
                    prefix_needs_parens = True
                    type_id = found.type_id
                case Array():
                    if prefix_needs_parens:
                        declarator = f"({declarator})"
                    declarator = f"{declarator}[{found.count or ''}]"
                    prefix_needs_parens = False
                    type_id = found.element_id
                case FuncProto():
                    if prefix_needs_parens:
                        declarator = f"({declarator})"
                    declarator = f"{declarator}({self._parameters(found, depth)})"
                    prefix_needs_parens = False
                    type_id = found.return_id
                case Const() | Volatile() | Restrict() | TypeTag():
                    word = _qualifier(found)
                    pointed = self._btf.type(found.type_id)
                    if isinstance(pointed, Ptr | Const | Volatile | Restrict | TypeTag):
                        # A qualifier of a pointer stands after its star.
                        declarator = f"{word} {declarator}".rstrip()
                        type_id = found.type_id
                    else:
                        inner = self.declare(found.type_id, declarator, depth)
                        return f"{word} {inner}"
                case _:
                    space = " " if declarator and not declarator.startswith("[") else ""
                    return f"{_base(found)}{space}{declarator}"

    def _parameters(self, proto: FuncProto, depth: int) -> str:
        parts = []
        for at, param in enumerate(proto.params):
            last = at == len(proto.params) - 1
            if last and not param.type_id and not param.name:
                parts.append("...")
            elif self._left < 0:
                parts.append(_CUT)
                break
            else:
                parts.append(self.declare(param.type_id, param.name, depth))
        return ", ".join(parts) or "void"

    def _body(self, type_: Struct | Union | Enum | Enum64, indent: int, depth: int) -> str:
        tabs = "\t" * indent
        head = f"{_base(type_)} {{".replace(" (anonymous)", "")
        lines = [head]
        if isinstance(type_, Enum | Enum64):
            lines += [f"{tabs}\t{value.name} = {value.value}," for value in type_.values]
        else:
            lines[0] += f" /* {type_.size} bytes */"
            for member in type_.members:
                if self._left < 0:
                    lines.append(f"{tabs}\t{_CUT}")
                    break
                text = self._inline(member.type_id, member.name, indent + 1, depth + 1)
                width = f" : {member.bitfield_bits}" if member.bitfield_bits else ""
                at = f"{member.bit_offset // 8}"
                at += f".{member.bit_offset % 8}" if member.bit_offset % 8 else ""
                lines.append(f"{tabs}\t{text}{width}; /* +{at} */")
                self._left -= len(lines[-1])
        return "\n".join([*lines, f"{tabs}}}"])

    def _inline(self, type_id: int, name: str, indent: int, depth: int) -> str:
        """A declaration in which an anonymous struct, union or enum is written out."""
        found = self._btf.type(type_id)
        anonymous = isinstance(found, Struct | Union | Enum | Enum64) and not found.name
        if not anonymous or depth > MAX_DEPTH:
            return self.declare(type_id, name, depth)
        assert isinstance(found, Struct | Union | Enum | Enum64)
        return f"{self._body(found, indent, depth)} {name}".rstrip()


def _qualifier(type_: Const | Volatile | Restrict | TypeTag) -> str:
    match type_:
        case Const():
            return "const"
        case Volatile():
            return "volatile"
        case Restrict():
            return "restrict"
        case TypeTag():
            return f"/* {type_.name} */"


def _base(type_: BtfType) -> str:
    name = getattr(type_, "name", "") or "(anonymous)"
    match type_:
        case Struct():
            return f"struct {name}"
        case Union():
            return f"union {name}"
        case Enum() | Enum64():
            return f"enum {name}"
        case Fwd():
            return f"{'union' if type_.is_union else 'struct'} {name}"
        case Int() | Float() | Typedef() | Func() | Var() | Datasec() | DeclTag():
            return name
    return "void"
