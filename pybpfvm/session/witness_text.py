"""A witness in words, for people who want to see with their own eyes what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from pybpfvm.profiles.base import CtxField
from pybpfvm.session.answers import FAILS, is_user_read, results_of
from pybpfvm.verifier.verdict import Witness


def describe(
    witness: Witness, fields: Sequence[CtxField] = (), read: Set[str] = frozenset()
) -> tuple[str, ...]:
    """The witness in words, a line each; what is zero anyway is left out. `fields` are those of
    the program's context, of which those named in `read` are told whatever they hold."""
    lines: list[str] = []
    context = context_text(witness.ctx, fields, read)
    if context:
        lines.append(f"context: {context}")
    if witness.packet:
        lines.append(f"packet of {len(witness.packet)} bytes: {_bytes(witness.packet)}")
    for name, key, value in witness.maps:
        element = f"map {name}" + (f"[{_bytes(key)}]" if key else "")
        lines.append(f"{element} holds {_bytes(value)}" if any(value) else f"{element} exists")
    filled = dict(witness.filled)
    user = iter(witness.user)
    for number, (name, result) in enumerate(witness.results):
        lines.append(_call_text(name, result, filled.get(number, b""), user))
    lines += [f"user memory at {addr:#x}: {_bytes(data)}" for addr, data in user]
    if not lines:
        lines.append("any inputs: nothing that the program reads matters")
    return tuple(lines)


def context_text(ctx: bytes, fields: Sequence[CtxField], read: Set[str] = frozenset()) -> str:
    """What a context holds other than zero, by the names of its fields, and all fields named in
    `read`; as bytes where it has no names."""
    parts: list[str] = []
    left = bytearray(ctx)
    for name, value in context_values(ctx, fields):
        if name not in read and not (value if isinstance(value, int) else any(value)):
            continue
        parts.append(f"{name} = {_number(value) if isinstance(value, int) else _bytes(value)}")
    for field in fields:
        if field.offset + field.size <= len(left):
            left[field.offset : field.offset + field.size] = bytes(field.size)
    if any(left):
        first = next(at for at, byte in enumerate(left) if byte)
        where = f"at offset {first}: " if parts or first else ""
        parts.append(where + _bytes(bytes(left[first:])))
    return ", ".join(parts)


def context_values(ctx: bytes, fields: Sequence[CtxField]) -> Iterator[tuple[str, int | bytes]]:
    """The name of each field of a context, with its number, or its bytes where it has more than a
    word of them."""
    for field in fields:
        held = ctx[field.offset : field.offset + field.size]
        if len(held) == field.size:
            whole = field.size <= _WORD_BYTES
            yield field.name, int.from_bytes(held, "little") if whole else held


def _number(value: int) -> str:
    return str(value) if value < _LARGE else f"{value:#x}"


def _call_text(name: str, result: int, data: bytes, user: Iterator[tuple[int, bytes]]) -> str:
    called = name if name.startswith("bpf_") else f"bpf_{name}"
    if is_user_read(name):
        addr, _ = next(user, (0, b""))
        if result:
            return f"{called} fails: user address {addr:#x} can not be read"
        return f"{called} finds {_bytes(data)} at user address {addr:#x}"
    if data and not result:
        return f"{called} gives {_bytes(data)}"
    if result == FAILS:
        return f"{called} fails"
    answers = results_of(name)
    if answers == (0, FAILS):
        return f"{called} succeeds"
    return f"{called} returns {result}"


_SHOWN_BYTES = 32
_WORD_BYTES = 8
_LARGE = 1 << 16  # larger numbers are told in hex


def _bytes(data: bytes) -> str:
    """Bytes in hex, without the zeros at the end."""
    kept = data.rstrip(b"\0")
    if not kept:
        return f"{len(data)} zero bytes" if len(data) != 1 else "00"
    text = kept[:_SHOWN_BYTES].hex(" ")
    if len(kept) > _SHOWN_BYTES:
        return f"{text} ... ({len(data)} bytes)"
    rest = len(data) - len(kept)
    return text if rest == 0 else f"{text} and {rest} zero byte{'s' if rest > 1 else ''}"
