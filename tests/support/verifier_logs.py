"""Verifier logs, the kernel's and ours, read by one grammar and brought into one form."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Notes on what the kernel does inside: precision marks, liveness, loops. We print none.
_INSIDE = re.compile(
    r"mark_precise: |Live regs before insn:|\s+(\d+ +)?\d+: [.0-9]{10} \(|\(\d+(,\d+)*\) "
    r"|frame \d+: propagating|SCC |verification time|stack depth|arg#\d+ "
)
_NUMBER = r"-?(?:0x[0-9a-f]+|\d+)"
_VAR_OFF = r"var_off=\(0x[0-9a-f]+; 0x[0-9a-f]+\)"
_FIELD = rf"(?:(?:\w+=)+[\w.+-]+|{_VAR_OFF}|non_own_ref)"
_VALUE = (
    rf"P?(?:{_NUMBER}|fp(?:\[\d\])?{_NUMBER}|[a-z_]+\d*(?:\[\d\])?\((?:{_FIELD}(?:,{_FIELD})*)?\))"
)
_WORD = rf"(?:R\d+={_VALUE}|fp-\d+=[?m0]*(?:{_VALUE})?|refs=\d+(?:,\d+)*|cb|async_cb|frame\d:)"
STATE = re.compile(rf"{_WORD}(?: {_WORD})*")
_INSN = re.compile(r"(?P<pc>\d+): \((?P<op>[0-9a-f]{2})\) (?P<text>[^;]*?)(?: *; ?(?P<state>.*))?$")
_JOINED = re.compile(
    r"(?P<pc>\d+): \([0-9a-f]{2}\) (?P<text>[^;]*?) (?P<next>\d+): (?P<state>(?:frame\d|R\d).*)$"
)
_AT = re.compile(r"(?P<pc>\d+):(?: (?P<state>.*))?$")
_FROM = re.compile(r"from (?P<origin>\d+) to (?P<pc>\d+): (?P<state>.*)$")
_SOURCE = re.compile(r"; (?P<text>.*) @ (?P<file>\S+):(?P<line>\d+)$")
STATISTICS = re.compile(
    r"processed (\d+) insns \(limit 1000000\) max_states_per_insn \d+ total_states \d+ "
    r"peak_states \d+ mark_read \d+$"
)
_FUNCTION = re.compile(r"func#\d+ @\d+$")
_CALLS = ("caller:", "callee:", "returning from callee:")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a log. `kind`: "insn" (`text` is its own, `state` what follows it), "state" (at
    `pc`), "from" (`text` is the origin), "frame" (of a call or return), "source", "func",
    "message", "processed"."""

    kind: str
    pc: int = -1
    text: str = ""
    state: str = ""


class Unreadable(Exception):
    """A line that looks like a part of a log and is not."""


def read(log: str) -> list[Entry]:
    """The entries of a log, notes on the kernel's inside left out. Raises Unreadable."""
    entries: list[Entry] = []
    for whole in log.splitlines():
        if not whole.strip() or _INSIDE.match(whole):
            continue
        entries += _entries(whole)
    return entries


def _entries(line: str) -> list[Entry]:
    if line.startswith((" ", "to caller at")) or line in _CALLS:
        if line.startswith(" ") and line.strip() and not line.strip().startswith("frame"):
            _state(line.strip())
        return [Entry("frame", text=line.rstrip())]
    if STATISTICS.match(line):
        return [Entry("processed", text=line)]
    if _FUNCTION.match(line):
        return [Entry("func", text=line)]
    source = _SOURCE.match(line)
    if source:
        return [Entry("source", int(source["line"]), source["text"])]
    moved = _FROM.match(line)
    if moved:
        state = moved["state"]
        return [Entry("from", int(moved["pc"]), moved["origin"], _state(state))]
    # At level 1 a branch and the state behind it share a line.
    joined = _JOINED.match(line)
    if joined:
        first = Entry("insn", int(joined["pc"]), joined["text"])
        return [first, Entry("state", int(joined["next"]), state=_state(joined["state"]))]
    insn = _INSN.match(line)
    if insn:
        text, pc = insn["text"], int(insn["pc"])
        return [Entry("insn", pc, text.strip(), _state(insn["state"] or ""))]
    at = _AT.match(line)
    if at:
        return [Entry("state", int(at["pc"]), state=_state(at["state"] or ""))]
    return [Entry("message", text=line)]


def _state(text: str) -> str:
    text = text.strip()
    if text and text != "safe" and not STATE.fullmatch(text):
        raise Unreadable(text)
    return text


def normalised(entries: list[Entry]) -> list[Entry]:
    """The same log in one form: addresses gone, ids numbered as they come, precision gone, and
    what an instruction did always beside it."""
    ids: dict[str, str] = {}
    out: list[Entry] = []
    for entry in entries:
        state = _plain(entry.state, ids)
        text = entry.text
        if entry.kind == "frame":
            text = _plain(text, ids)
        if entry.kind == "insn":
            text = re.sub(r" = 0x[0-9a-f]{16}$", " = 0x0", text)
        previous = out[-1] if out else None
        if entry.kind == "state" and previous is not None:
            if previous.kind == "insn" and not previous.state:
                out[-1] = Entry("insn", previous.pc, previous.text, state)
                continue
            if previous.kind == "from" and previous.state == state:
                continue
        out.append(Entry(entry.kind, entry.pc, text, state))
    return out


def _plain(state: str, ids: dict[str, str]) -> str:
    state = re.sub(r"=P(?=[-\ds])", "=", state)
    state = re.sub(r"=([?m0]*)P(?=[-\ds])", r"=\1", state)

    def renamed(found: re.Match[str]) -> str:
        numbers = found[2].split(",")
        return found[1] + ",".join(ids.setdefault(n, str(len(ids) + 1)) for n in numbers)

    return re.sub(r"\b((?:ref_obj_)?id=|refs=)([\d,]+)(?=[^\w=]|$)", renamed, state)
