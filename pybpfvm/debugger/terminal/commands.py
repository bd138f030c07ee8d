"""The commands: each takes the rest of its line and says what it has to say.

Everything that a user types wrong is an InputError of one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.debugger import Debugger, Frame, How, Stop
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.ringstate import RingState
from pybpfvm.errors import InputError, errno_name
from pybpfvm.events import Event, OfRing
from pybpfvm.maps.base import MapError
from pybpfvm.program import MapType
from pybpfvm.report import timeline_text
from pybpfvm.report.paint import Paint
from pybpfvm.report.timeline import Setting
from pybpfvm.report.timeline_builder import TimelineBuilder
from pybpfvm.report.words import printable
from pybpfvm.uring_backend.abi import Op

_AROUND = 5  # lines before and behind, in a listing
_MOST_ROWS = 40
_MOST_BYTES = 1 << 16
_MOST_STEPS = 1_000_000
_WIDTH = 100
_EXAMINE = re.compile(r"(?:/(?P<count>\d*)(?P<letters>[a-z]*)\s+)?(?P<what>.+)")
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
_IF = re.compile(r"(?:^|\s)if\b\s*(.*)$", re.DOTALL)
_MOVES: dict[str, How] = {
    "step": "step",
    "next": "next",
    "finish": "finish",
    "continue": "continue",
    "stepi": "stepi",
    "nexti": "nexti",
    "run": "run",
    "cqe": "cqe",
    "helper": "helper",
}


class Quit(Exception):
    """The user wants to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its name, with what else it is called, what it takes, and what it does."""

    name: str
    others: tuple[str, ...]
    usage: str
    help: str
    do: Callable[[str], None]


class Commands:
    """All commands, on one debugger. `say` takes what they print, line by line."""

    def __init__(self, debugger: Debugger, say: Callable[[str], None], paint: Paint) -> None:
        self.debugger = debugger
        self._say = say
        self._paint = paint
        self.frame = 0
        self._displays: dict[int, str] = {}
        self._next_display = 1
        self._listed: tuple[str, int] | None = None  # the file, and the line a listing goes on at
        self.all: dict[str, Command] = {}
        self._names: dict[str, Command] = {}
        for command in self._table():
            self.all[command.name] = command
            for name in (command.name, *command.others):
                self._names[name] = command

    def _table(self) -> Iterator[Command]:
        back = {"continue": "rc", "finish": "rfin", "next": "rn", "step": "rs"}
        back |= {"stepi": "rsi", "nexti": "rni"}
        forth = {"continue": "c", "finish": "fin", "next": "n", "step": "s"}
        forth |= {"stepi": "si", "nexti": "ni", "run": "r"}
        what = {
            "step": "to the next line, into functions, inlined ones too",
            "next": "to the next line of this function",
            "finish": "to where this function has returned",
            "continue": "until a breakpoint is met",
            "stepi": "by one instruction",
            "nexti": "by one instruction, over calls",
            "run": "to the next run of a program",
            "cqe": "until a CQE has been posted",
            "helper": "to the next call of a helper",
        }
        for name, how in _MOVES.items():
            short = (forth[name],) if name in forth else ()
            yield Command(name, short, "[COUNT]", what[name], self._mover(how, False))
            short = (back[name],) if name in back else ()
            yield Command(
                f"reverse-{name}", short, "[COUNT]", f"{name} backward", self._mover(how, True)
            )
        one = Command
        place = (
            "FILE:LINE | LINE | FUNCTION | PROGRAM+PC | helper NAME | cqe [CQ] | run [PROGRAM] | "
        )
        yield one("break", ("b",), f"{place}trap [if EXPR]", "stop there", self._break)
        yield one("tbreak", ("tb",), "as break", "stop there once", self._tbreak)
        yield one(
            "watch", (), "EXPR [if EXPR]", "stop when its value in memory changes", self._watch
        )
        yield one(
            "dprintf", (), "PLACE, TEXT with {EXPR}s [if EXPR]", "say that there", self._dprintf
        )
        yield one("delete", ("d",), "[NUMBER]", "delete a breakpoint, or all", self._delete)
        yield one("disable", (), "[NUMBER]", "pass it by", self._disable)
        yield one("enable", (), "[NUMBER]", "stop there again", self._enable)
        yield one("condition", (), "NUMBER [EXPR]", "stop only where it holds", self._condition)
        yield one("ignore", (), "NUMBER COUNT", "stop after so many hits more", self._ignore)
        yield one("goto", (), "RUN:INSNS | NUMBER | start | end | fault", "go there", self._goto)
        yield one("seek", (), "[first] EXPR", "go where it held last, or first", self._seek)
        yield one("why", (), "EXPR | REGISTER", "who wrote this?", self._why)
        yield one("print", ("p",), "[/FORMAT] EXPR", "its value", self._print)
        yield one("x", (), "[/COUNT FORMAT SIZE] EXPR", "memory at an address", self._examine)
        yield one("display", (), "[EXPR]", "show it at each stop", self._display)
        yield one("undisplay", (), "[NUMBER]", "do not", self._undisplay)
        yield one("backtrace", ("bt", "where"), "", "the functions that are executed", self._bt)
        yield one("frame", ("f",), "[NUMBER]", "look at a function of these", self._frame)
        yield one("up", (), "", "the function that called this one", self._up)
        yield one("down", (), "", "the function that this one called", self._down)
        yield one("list", ("l",), "[LINE | FUNCTION]", "source", self._list)
        yield one("disas", ("disassemble",), "[all]", "instructions", self._disas)
        yield one("info", ("i",), " | ".join(_INFO), "what there is", self._info)
        yield one("ring", (), "[NUMBER]", "queues and requests", self._ring)
        yield one("maps", (), "[NAME]", "maps and their elements", self._maps)
        yield one("timeline", (), "", "the whole recording as a picture", self._timeline)
        yield one("help", ("h",), "[COMMAND]", "this", self._help)
        yield one("quit", ("q", "exit"), "", "leave", self._quit)

    # --- lines ----------------------------------------------------------------------------------

    def execute(self, line: str) -> None:
        """Do what a line says. Raises InputError, ExpressionError, Quit."""
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            return
        name, slash, format = word.partition("/")
        if slash:
            word, rest = name, f"/{format} {rest}"
        self._command(word).do(rest.strip())

    def _command(self, word: str) -> Command:
        found = self._names.get(word)
        if found is not None:
            return found
        near = {one.name: one for name, one in self._names.items() if name.startswith(word)}
        if len(near) == 1:
            return near.popitem()[1]
        known = f"{', '.join(near)}" if near else "help lists what there is"
        raise InputError(f"no command is called {word!r}", remedy=known)

    def repeats(self, line: str) -> bool:
        """Whether an empty line behind this one does it again."""
        try:
            name = self._command(line.split()[0].partition("/")[0]).name
        except (InputError, IndexError):
            return False
        return name.removeprefix("reverse-") in _MOVES or name in ("list", "x", "up", "down")

    def words(self, line: str) -> Sequence[str]:
        """What could stand where the last word of a line begins."""
        before, _, word = line.rpartition(" ")
        if not before.strip():
            return [name for name in sorted(self._names) if name.startswith(word)]
        first = before.split()[0]
        if first in ("info", "i"):
            return [name for name in _INFO if name.startswith(word)]
        if first in ("help", "h"):
            return [name for name in self.all if name.startswith(word)]
        return [name for name in self._c_names() if name.startswith(word)]

    def _c_names(self) -> list[str]:
        debugger = self.debugger
        names = {variable.name for variable in debugger.variables(self.frame)}
        names |= set(debugger.maps())
        names |= {one.name for one in debugger.blocks() if one.name.isidentifier()}
        for loaded in debugger.history.replay.objects:
            for program in loaded.image.programs.values():
                names |= {program.name, *(sub.name for sub in program.subprogs)}
        return sorted(names)

    # --- moving ---------------------------------------------------------------------------------

    def _mover(self, how: How, backward: bool) -> Callable[[str], None]:
        def move(text: str) -> None:
            stop = None
            for _ in range(self._number(text, _MOST_STEPS) if text else 1):
                stop = self.debugger.move(how, backward=backward)
                for line in stop.log:
                    self._say(line)
                if stop.reason != "step":
                    break
            if stop is not None:
                self._stopped(stop)

        return move

    def _stopped(self, stop: Stop) -> None:
        self.frame, self._listed = 0, None
        match stop.reason:
            case "breakpoint":
                numbers = ", ".join(str(one.id) for one in stop.breakpoints)
                self._say(self._paint(f"Breakpoint {numbers}", "bold"))
            case "end" | "start":
                self._say(f"The {stop.reason} of the recording.")
            case "trap":
                self._say(self._paint(f"Trap: {stop.text.partition(',')[0]}", "bold", "red"))
            case "pause":
                self._say("Interrupted: you are where you were.")
            case "diverged" | "not found":
                self._say(printable(stop.text))
            case _:
                pass
        for one in stop.breakpoints:
            if one.failed:
                self._say(f"the condition of breakpoint {one.id} had no value: {one.failed}")
        self.where()

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

    def _goto(self, text: str) -> None:
        history = self.debugger.history
        named = {"start": history.start, "end": history.end, "fault": history.fault()}
        run, colon, insns = text.partition(":")
        if text in named:
            position = named[text]
            if position is None:
                raise InputError("no fault ended the recording")
        elif colon:
            position = Position(self._number(run), self._number(insns))
        else:
            position = history.position_of(self._number(text))
        self._stopped(self.debugger.goto(position))

    def _seek(self, text: str) -> None:
        first = text.startswith(("first ", "last "))
        word, _, rest = text.partition(" ")
        expression = rest if first else text
        if not expression.strip():
            raise InputError("seek what?", remedy="seek [first] EXPRESSION")
        self._stopped(self.debugger.seek(expression, last=not first or word == "last"))

    def _why(self, text: str) -> None:
        if not text:
            raise InputError("why what?", remedy="a register, a variable, an element of a map")
        write = self.debugger.who_wrote(text, self.frame)
        self._say(printable(write.text))
        if write.line is not None and write.line.text.strip():
            self._say(f"{write.line.line}\t{printable(write.line.text)}")
        if write.by != "start":
            self._say(f"goto {write.position} goes there")

    # --- breakpoints ----------------------------------------------------------------------------

    def _break(self, text: str) -> None:
        self._set(self._parsed(text))

    def _tbreak(self, text: str) -> None:
        one = self._parsed(text)
        one.temporary = True
        self._set(one)

    def _watch(self, text: str) -> None:
        expression, condition = _split_if(text)
        if not expression:
            raise InputError("watch what?", remedy="watch EXPRESSION")
        self._set(Breakpoint("data", expression=expression, condition=condition))

    def _dprintf(self, text: str) -> None:
        place, comma, message = text.partition(",")
        if not comma:
            raise InputError("dprintf says what?", remedy="dprintf PLACE, TEXT with {EXPR}s")
        one = self._parsed(place)
        message, one.condition = _split_if(message)
        one.log_message = message.strip().removeprefix('"').removesuffix('"')
        self._set(one)

    def _set(self, one: Breakpoint) -> None:
        self.debugger.set_breakpoint(one)
        what = "Watchpoint" if one.kind == "data" else "Breakpoint"
        if not one.verified:
            self.debugger.clear(one.id)
            raise InputError(f"no breakpoint there: {one.message}", remedy="info functions")
        self._say(f"{what} {one.id}: {one.where}")

    def _parsed(self, text: str) -> Breakpoint:
        place, condition = _split_if(text)
        one = self._place_of(place)
        one.condition = condition
        return one

    def _place_of(self, place: str) -> Breakpoint:
        word, _, rest = place.partition(" ")
        rest = rest.strip()
        match word:
            case "helper" if rest:
                return Breakpoint("helper", helper=rest)
            case "cqe":
                return Breakpoint("cqe", cq=self._number(rest) if rest else None)
            case "run":
                return Breakpoint("start", program=rest)
            case "trap":
                return Breakpoint("trap")
        frames = self.debugger.frames()
        if not place:
            if not frames:
                raise InputError("break where?", remedy="FILE:LINE, FUNCTION or PROGRAM+PC")
            return Breakpoint("insn", program=frames[0].program.name, pc=frames[0].pc)
        file, colon, line = place.rpartition(":")
        if colon and line.isdigit():
            return Breakpoint("line", file=file, line=int(line))
        if place.isdigit():
            file = frames[self.frame].file if frames else self._own_file()
            return Breakpoint("line", file=file, line=int(place))
        program, plus, pc = place.removeprefix("*").rpartition("+")
        if plus and pc.isdigit():
            return Breakpoint("insn", program=program, pc=int(pc))
        if place.startswith("*") and place[1:].isdigit() and frames:
            return Breakpoint("insn", program=frames[0].program.name, pc=int(place[1:]))
        return Breakpoint("function", function=place)

    def _own_file(self) -> str:
        for loaded in self.debugger.history.replay.objects:
            for program in loaded.image.programs.values():
                if program.own_file:
                    return program.own_file
        return ""

    def _numbered(self, text: str) -> list[Breakpoint]:
        known = self.debugger.breakpoints
        if not text:
            return list(known.values())
        number = self._number(text)
        if number not in known:
            raise InputError(f"there is no breakpoint {number}", remedy="info break")
        return [known[number]]

    def _delete(self, text: str) -> None:
        for one in self._numbered(text):
            self.debugger.clear(one.id)

    def _disable(self, text: str) -> None:
        for one in self._numbered(text):
            one.enabled = False

    def _enable(self, text: str) -> None:
        for one in self._numbered(text):
            one.enabled = True

    def _condition(self, text: str) -> None:
        number, _, condition = text.partition(" ")
        if not number:
            raise InputError("condition of what?", remedy="condition NUMBER EXPRESSION")
        (one,) = self._numbered(number)
        before = one.condition, one.compiled
        one.condition, one.compiled = condition.strip(), None
        try:
            self.debugger.set_breakpoint(one)
        except InputError:
            one.condition, one.compiled = before
            raise

    def _ignore(self, text: str) -> None:
        number, _, count = text.partition(" ")
        (one,) = self._numbered(number or "none")
        one.hit_condition = f"> {one.hits + self._number(count)}"

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
            one = self.debugger.set_breakpoint(Breakpoint("function", function=text))
            self.debugger.clear(one.id)
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
        near = [name for name in _INFO if word and name.startswith(word)]
        if not near:
            raise InputError(f"no info {word!r}", remedy=f"info {' | '.join(_INFO)}")
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
                f"{mark} {entry.number:6}  {entry.program}  {entry.insns} instructions, {ended}"
            )
        self._say(f"{len(runs)} runs, {self.debugger.history.insns:,} instructions")

    def _ring(self, text: str) -> None:
        rings = self.debugger.rings()
        if text:
            number = self._number(text)
            if not 1 <= number <= len(rings):
                raise InputError(f"there is no ring {number}", remedy=f"1 to {len(rings)}")
            rings = [rings[number - 1]]
        if not rings:
            self._say("the recording has no ring")
        for ring in rings:
            for line in ring_lines(ring):
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
        names = {f"ring{n}": len(one.get("cq_entries", (0,))) for n, one in enumerate(rings, 1)}
        builder = TimelineBuilder(rings=names if len(rings) > 1 else None)
        start = None
        for event in self._events():
            start = event.time_ns if start is None else start
            builder(event)
        picture = builder.finish(Setting(title=history.replay.file.path), start_ns=start or 0)
        for line in timeline_text.lines(picture, _WIDTH, self._paint):
            self._say(line)

    def _events(self) -> Iterator[Event]:
        history = self.debugger.history
        several = len(history.replay.index.rings) > 1
        for run in range(len(history.runs) + 1):
            told = [*history.told_before(run)]
            told += history.told_in(run) if run < len(history.runs) else ()
            for one in told:
                yield OfRing(f"ring{one.ring}", one.event) if several else one.event

    # --- the rest -------------------------------------------------------------------------------

    def _help(self, text: str) -> None:
        commands: Iterable[Command] = [self._command(text)] if text else self.all.values()
        for one in commands:
            others = f" ({', '.join(one.others)})" if one.others else ""
            self._say(f"{one.name}{others}  {one.usage}".rstrip())
            self._say(f"    {one.help}")

    def _quit(self, _: str) -> None:
        raise Quit

    def _number(self, text: str, most: int = 1 << 62) -> int:
        try:
            number = int(text.strip(), 0)
        except ValueError:
            raise InputError(f"{text!r} is not a number") from None
        if not 0 <= number <= most:
            raise InputError(f"{number} is out of range", remedy=f"0 to {most}")
        return number


_INFO = ("breakpoints", "registers", "locals", "frame", "functions", "blocks", "runs")


def _split_if(text: str) -> tuple[str, str]:
    """What stands before `if`, and behind it."""
    found = _IF.search(text)
    if found is None:
        return text.strip(), ""
    return text[: found.start()].strip(), found[1].strip()


def ring_lines(ring: RingState) -> Iterator[str]:
    """A ring, line by line."""
    yield f"{ring.name}: {ring.time_ns / 1e6:.3f} ms, SQ of {ring.sq_entries or '?'} entries"
    for number, queue in sorted(ring.queues.items()):
        lost = f", {queue.lost} lost" if queue.lost else ""
        waiting = f", {len(queue.backlog)} wait for room" if queue.backlog else ""
        yield f"  CQ {number}: {len(queue.cqes)} of {queue.entries or '?'} CQEs{waiting}{lost}"
        for cqe in list(queue.cqes)[:_MOST_ROWS]:
            res = f"-{errno_name(cqe.res)}" if cqe.res < 0 else str(cqe.res)
            yield f"    user_data {cqe.user_data:#x}, res {res}, flags {cqe.flags:#x}"
    for one in ring.inflight[:_MOST_ROWS]:
        try:
            name = Op(one.opcode).name
        except ValueError:
            name = f"opcode {one.opcode}"
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


__all__ = ["Command", "Commands", "Quit", "ring_lines"]
