"""Commands that look at what is there, where one is: values, frames, source, rings, maps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.debugger import Debugger, Frame
from pybpfvm.errors import InputError, errno_name
from pybpfvm.events import Event, OfRing
from pybpfvm.maps.base import MapError
from pybpfvm.program import MapType
from pybpfvm.report import timeline_text
from pybpfvm.report.paint import Paint
from pybpfvm.report.timeline import Setting
from pybpfvm.report.timeline_builder import TimelineBuilder
from pybpfvm.report.words import count, printable
from pybpfvm.trace.ringstate import RingState
from pybpfvm.uring_backend.abi import SQE_BYTES, Sqe

_AROUND = 5  # lines before and behind, in a listing
_MOST_ROWS = 40
_MOST_BYTES = 1 << 16
_WIDTH = 100
_EXAMINE = re.compile(r"(?:/(?P<count>\d*)(?P<letters>[a-z]*)\s+)?(?P<what>.+)")
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
INFO = ("breakpoints", "registers", "locals", "frame", "functions", "blocks", "runs")


class Looking:
    """These commands, on one debugger; each takes the rest of its line. `frame` is the function
    that is looked at."""

    def __init__(self, debugger: Debugger, say: Callable[[str], None], paint: Paint) -> None:
        self.debugger = debugger
        self._say = say
        self._paint = paint
        self.frame = 0
        self._displays: dict[int, str] = {}
        self._next_display = 1
        self._listed: tuple[str, int] | None = None  # the file, and the line a listing goes on at

    def _own_file(self) -> str:
        for loaded in self.debugger.history.replay.objects:
            for program in loaded.image.programs.values():
                if program.own_file:
                    return program.own_file
        return ""

    def where(self) -> None:
        """Say where one is, with its line and what is displayed."""
        debugger = self.debugger
        frames = debugger.frames()
        if frames:
            self._say(f"{self._place(frames[self.frame])}   [{debugger.position}]")
            text = self._text(frames[self.frame])
            if text:
                self._say(text)
        else:
            self._say(f"{debugger.describe()}   [{debugger.position}]")
        for number, expression in self._displays.items():
            self._say(f"{number}: {expression} = {self._value(expression)}")

    def _value(self, expression: str) -> str:
        try:
            return self.debugger.text_of(expression, self.frame)
        except InputError as error:
            return f"({error.reason})"

    def _place(self, frame: Frame) -> str:
        line = f"{frame.file}:{frame.line}" if frame.line else "no source line"
        name = self._paint(frame.function, "yellow")
        return f"{name} at {line}, {frame.program.name}+{frame.pc}"

    def _text(self, frame: Frame) -> str:
        text = frame.text or self._source(frame.file).get(frame.line, "")
        if frame.line and text:
            return f"{frame.line}\t{text}"
        lines = self.debugger.disassemble(frame.program, frame.pc, 1)
        return f"{frame.pc:6}:\t{lines[0].text}" if lines else ""

    # --- looking --------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        if not text:
            raise InputError("print what?", remedy="print EXPRESSION")
        self._say(printable(self.debugger.text_of(text, self.frame)))

    def _examine(self, text: str) -> None:
        found = _EXAMINE.fullmatch(text)
        if found is None:
            raise InputError("x of what?", remedy="x/8xg EXPRESSION")
        count, format, size = int(found["count"] or 1), "x", 8
        for letter in found["letters"] or "":
            if letter in _SIZES:
                size = _SIZES[letter]
            elif letter in "xduotc":
                format = letter
            else:
                raise InputError(f"{letter!r} is no format", remedy="x d u o t c, and b h w g")
        value = self.debugger.evaluate(found["what"], self.frame)
        addr = value.addr if value.data and value.addr is not None else value.number
        if count * size > _MOST_BYTES:
            raise InputError(f"{count * size} bytes", remedy=f"{_MOST_BYTES} at most")
        data = self.debugger.read_memory(addr, count * size)
        if data is None:
            where = self.debugger.history.memory.explain(addr)
            raise InputError(f"no {count * size} bytes at {addr:#x}: {where}")
        a_line = max(16 // size, 1)
        words = [data[at : at + size] for at in range(0, len(data), size)]
        for at in range(0, len(words), a_line):
            shown = "  ".join(self._word(word, format) for word in words[at : at + a_line])
            self._say(f"{addr + at * size:#x}:  {shown}")

    @staticmethod
    def _word(data: bytes, format: str) -> str:
        number = int.from_bytes(data, "little")
        match format:
            case "d":
                return str(int.from_bytes(data, "little", signed=True))
            case "u":
                return str(number)
            case "o":
                return f"{number:#o}"
            case "t":
                return f"{number:0{8 * len(data)}b}"
            case "c":
                return repr(chr(number & 0xFF))
            case _:
                return f"{number:#0{2 + 2 * len(data)}x}"

    def _display(self, text: str) -> None:
        if text:
            value = self.debugger.text_of(text, self.frame)
            number = self._next_display
            self._next_display += 1
            self._displays[number] = text
            self._say(f"{number}: {text} = {printable(value)}")
            return
        for number, expression in self._displays.items():
            self._say(f"{number}: {expression} = {self._value(expression)}")

    def _undisplay(self, text: str) -> None:
        if not text:
            self._displays.clear()
        elif self._displays.pop(self._number(text), None) is None:
            raise InputError(f"nothing is displayed as {text}", remedy="display lists what is")

    def _frames(self) -> list[Frame]:
        frames = self.debugger.frames()
        if not frames:
            raise InputError(f"no program is running here: {self.debugger.describe()}")
        return frames

    def _bt(self, _: str) -> None:
        for frame in self._frames():
            mark = "*" if frame.index == self.frame else " "
            inlined = "  (inlined)" if frame.inlined else ""
            self._say(f"{mark}#{frame.index} {self._place(frame)}{inlined}")
        self._say(f"  {self.debugger.run_info()}")

    def _frame(self, text: str) -> None:
        self._choose(self._number(text) if text else self.frame)

    def _up(self, _: str) -> None:
        self._choose(self.frame + 1)

    def _down(self, _: str) -> None:
        self._choose(self.frame - 1)

    def _choose(self, number: int) -> None:
        frames = self._frames()
        if not 0 <= number < len(frames):
            raise InputError(f"there is no frame {number}", remedy=f"0 to {len(frames) - 1}")
        self.frame, self._listed = number, None
        self._say(f"#{number} {self._place(frames[number])}")
        text = self._text(frames[number])
        if text:
            self._say(text)

    def _source(self, file: str) -> dict[int, str]:
        """Lines of a file: as they are there, else those that the object has."""
        known: dict[int, str] = {}
        for loaded in self.debugger.history.replay.objects:
            for program in loaded.image.programs.values():
                for line in program.lines.values():
                    if line.file == file:
                        known[line.line] = line.text
        try:
            text = Path(file).read_text("utf-8", "replace").splitlines()
        except (OSError, ValueError):
            return known
        whole = dict(enumerate(text, 1))
        same = all(whole.get(number, "").strip() == line.strip() for number, line in known.items())
        return whole if same else known

    def _list(self, text: str) -> None:
        frames = self.debugger.frames()
        if text and not text.isdigit():
            one = self.debugger.resolve(Breakpoint("function", function=text))
            if not one.places:
                raise InputError(f"no function is called {text!r}", remedy="info functions")
            name, at = next(iter(one.places.items()))
            program = next(
                loaded.image.programs[name]
                for loaded in self.debugger.history.replay.objects
                if name in loaded.image.programs
            )
            line = program.line_at(min(at))
            if line is None:
                raise InputError(f"no source line of {text} is known", remedy="compile with -g")
            file, first = line.file, line.line - _AROUND
        elif text:
            file = frames[self.frame].file if frames else self._own_file()
            first = int(text) - _AROUND
        elif self._listed is not None:
            file, first = self._listed
        else:
            one_ = self._frames()[self.frame]
            file, first = one_.file, one_.line - _AROUND
        lines = self._source(file)
        shown = [n for n in range(max(first, 1), first + 2 * _AROUND + 1) if n in lines]
        if not shown:
            raise InputError(f"no lines {first} to {first + 2 * _AROUND} of {file or 'a source'}")
        current = frames[self.frame].line if frames and frames[self.frame].file == file else 0
        for number in shown:
            row = f"{number}\t{printable(lines[number].expandtabs(4))}"
            self._say(self._paint(f"=> {row}", "bold") if number == current else f"   {row}")
        self._listed = file, shown[-1] + 1

    def _disas(self, text: str) -> None:
        frame = self._frames()[self.frame]
        lines = self.debugger.disassemble(frame.program)
        if text != "all":
            at = next(n for n, line in enumerate(lines) if line.pc >= frame.pc)
            lines = lines[max(at - 2 * _AROUND, 0) : at + 2 * _AROUND + 1]
        for line in lines:
            if line.source is not None and line.source.text.strip():
                self._say(self._paint(f"; {line.source} {line.source.text.strip()}", "dim"))
            here = line.pc == frame.pc
            row = f"{'=>' if here else '  '} {line.pc:5}: {line.text}"
            self._say(self._paint(row, "bold") if here else row)

    def _info(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        near = [name for name in INFO if word and name.startswith(word)]
        if not near:
            raise InputError(f"no info {word!r}", remedy=f"info {' | '.join(INFO)}")
        getattr(self, f"_info_{near[0]}")(rest.strip())

    def _info_breakpoints(self, _: str) -> None:
        if not self.debugger.breakpoints:
            self._say("no breakpoints")
        for one in self.debugger.breakpoints.values():
            parts = [f"{one.id}  {one.kind}  {one.where}", f"hits {one.hits}"]
            parts += [] if one.enabled else ["disabled"]
            parts += [f"if {one.condition}"] if one.condition else []
            parts += [f"hits {one.hit_condition}"] if one.hit_condition else []
            parts += [f"says {one.log_message!r}"] if one.log_message is not None else []
            self._say(", ".join(parts))

    def _info_registers(self, _: str) -> None:
        frame = self._frames()[self.frame]
        memory = self.debugger.scope(self.frame)
        for number, word in enumerate(frame.regs):
            name = memory.describe(word)
            signed = word - (1 << 64) if word >> 63 else word
            more = f" <{name}>" if name else ""
            self._say(f"r{number:<3} {word:#018x}  {signed}{more}")
        self._say(f"pc   {frame.pc} of {frame.program.name}")

    def _info_locals(self, _: str) -> None:
        self._frames()
        variables = self.debugger.variables(self.frame)
        if not variables:
            self._say("no variables are known here")
        for one in variables:
            value = f"({one.why})" if one.value is None else printable(one.value.text())
            self._say(f"{one.name} = {value}")

    def _info_frame(self, _: str) -> None:
        self._say(f"#{self.frame} {self._place(self._frames()[self.frame])}")
        self._say(self.debugger.run_info())

    def _info_functions(self, _: str) -> None:
        for loaded in self.debugger.history.replay.objects:
            for program in loaded.image.programs.values():
                subs = ", ".join(sub.name for sub in program.subprogs)
                self._say(f"{program.name} ({program.section}): {subs}")

    def _info_blocks(self, _: str) -> None:
        for one in self.debugger.blocks():
            self._say(f"{one.start:#x}  {one.size:8} bytes  {one.kind.value}  {one.name}")

    def _info_runs(self, _: str) -> None:
        runs = self.debugger.history.runs
        here = self.debugger.position.run
        first = max(min(here - _MOST_ROWS // 2, len(runs) - _MOST_ROWS), 0)
        for entry in runs[first : first + _MOST_ROWS]:
            ended = f"r0 = {entry.r0:#x}" if entry.how is None else entry.how[4] or entry.how[1]
            mark = "*" if entry.number == here else " "
            self._say(
                f"{mark} {entry.number:6}  {entry.program}  "
                f"{count(entry.insns, 'instruction')}, {ended}"
            )
        insns = count(self.debugger.history.insns, "instruction")
        self._say(f"{count(len(runs), 'run')}, {insns}")

    def _ring(self, text: str) -> None:
        rings = self.debugger.rings()
        if text:
            numbers = [n for n, one in enumerate(rings, 1) if text in (one.name, str(n))]
            if not numbers:
                known = ", ".join(one.name for one in rings) or "the recording has none"
                raise InputError(f"there is no ring {text}", remedy=known)
            rings = [rings[numbers[0] - 1]]
        if not rings:
            self._say("the recording has no ring")
        for ring in rings:
            for line in ring_lines(ring, self.debugger.opcode_name):
                self._say(line)

    def _maps(self, text: str) -> None:
        maps = self.debugger.maps()
        if text and text not in maps:
            raise InputError(
                f"no map is called {text!r}", remedy=", ".join(maps) or "there is none"
            )
        for name, live in maps.items():
            if text in ("", name):
                spec = live.spec
                kind = spec.type.name.lower() if isinstance(spec.type, MapType) else str(spec.type)
                self._say(f"{name}: {kind}, keys {spec.key_size}, values {spec.value_size} bytes")
                if text or spec.data is None:
                    self._elements(name, _MOST_ROWS if text else 8)

    def _elements(self, name: str, most: int) -> None:
        scope = self.debugger.scope(self.frame)
        live = self.debugger.maps()[name]
        shown = 0
        key: bytes | None = None
        while True:
            try:
                key = live.next_key(key)
            except MapError:
                return
            value = scope.element(name, key)
            if value is None or not any(value):
                continue
            if shown == most:
                self._say("  ...")
                return
            shown += 1
            self._say(f"  [{self._key(key)}] = {self._element(name, key, value)}")

    @staticmethod
    def _key(key: bytes) -> str:
        return str(int.from_bytes(key, "little")) if len(key) in (1, 2, 4, 8) else key.hex()

    def _element(self, name: str, key: bytes, value: bytes) -> str:
        if len(key) in (1, 2, 4, 8):
            try:
                text = f'map("{name}")[{int.from_bytes(key, "little")}]'
                return printable(self.debugger.text_of(text, self.frame))
            except InputError:
                pass
        return value[:64].hex() + ("..." if len(value) > 64 else "")

    def _timeline(self, _: str) -> None:
        history = self.debugger.history
        rings = history.replay.index.rings
        queues = (one.get("cq_entries") for one in rings)
        names = {
            name: len(sizes) if isinstance(sizes, tuple) else 1
            for name, sizes in zip(history.ring_names, queues, strict=True)
        }
        builder = TimelineBuilder(rings=names if len(rings) > 1 else None)
        start = None
        for event in self._events():
            start = event.time_ns if start is None else start
            builder(event)
        setting = Setting(
            title=history.replay.file.path,
            opcodes={number: self.debugger.opcode_name(number) for number in range(256)},
        )
        picture = builder.finish(setting, start_ns=start or 0)
        for line in timeline_text.lines(picture, _WIDTH, self._paint):
            self._say(line)

    def _events(self) -> Iterator[Event]:
        history = self.debugger.history
        several = len(history.replay.index.rings) > 1
        for run in range(len(history.runs) + 1):
            told = [*history.told_before(run)]
            told += history.told_in(run) if run < len(history.runs) else ()
            for one in told:
                yield OfRing(history.ring_name(one.ring), one.event) if several else one.event

    def _number(self, text: str, most: int = 1 << 62) -> int:
        try:
            number = int(text.strip(), 0)
        except ValueError:
            raise InputError(f"{text!r} is not a number") from None
        if not 0 <= number <= most:
            raise InputError(f"{number} is out of range", remedy=f"0 to {most}")
        return number


def ring_lines(ring: RingState, opcode: Callable[[int], str]) -> Iterator[str]:
    """A ring, line by line; `opcode` names those of requests."""
    yield f"{ring.name}: {ring.time_ns / 1e6:.3f} ms, SQ of {ring.sq_entries or '?'} entries"
    yield from _sqe_lines(ring, opcode)
    for number, queue in sorted(ring.queues.items()):
        lost = f", {queue.lost} lost" if queue.lost else ""
        waiting = f", {len(queue.backlog)} wait for room" if queue.backlog else ""
        yield f"  CQ {number}: {len(queue.cqes)} of {queue.entries or '?'} CQEs{waiting}{lost}"
        for cqe in list(queue.cqes)[:_MOST_ROWS]:
            res = f"-{errno_name(cqe.res)}" if cqe.res < 0 else str(cqe.res)
            yield f"    user_data {cqe.user_data:#x}, res {res}, flags {cqe.flags:#x}"
    for one in ring.inflight[:_MOST_ROWS]:
        name = opcode(one.opcode)
        waits = ""
        if one.waits is not None:
            waits = f", waits until CQ {one.waits[0]} holds {one.waits[1]}"
        what = f"{name} of {one.origin}, user_data {one.user_data:#x}"
        yield f"  request {one.request}: {what}{waits}"
    if len(ring.inflight) > _MOST_ROWS:
        yield f"  ... {len(ring.inflight) - _MOST_ROWS} requests more"
    if ring.host_waits is not None:
        cq, wanted = ring.host_waits
        what = f"until CQ {cq} holds {wanted}" if wanted else "until no request lives"
        yield f"  the host waits {what}"


def _sqe_lines(ring: RingState, opcode: Callable[[int], str]) -> Iterator[str]:
    """What waits in the SQ."""
    queue = ring.queue
    if queue is None or not (queue.sqes or queue.dropped):
        return
    dropped = f", {queue.dropped} named none" if queue.dropped else ""
    yield f"  SQ, as last told: {len(queue.sqes)} SQEs{dropped}"
    for raw in list(queue.sqes)[:_MOST_ROWS]:
        if len(raw) < SQE_BYTES:
            yield "    an entry that names no SQE"
            continue
        sqe = Sqe.unpack(raw)
        yield f"    {opcode(sqe.opcode)}, fd {sqe.fd}, user_data {sqe.user_data:#x}"


__all__ = ["INFO", "Looking", "ring_lines"]
