"""The commands: each takes the rest of its line and says what it has to say.

Everything that a user types wrong is an InputError of one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.debugger import Debugger, How, Stop
from pybpfvm.debugger.place import cqe_text
from pybpfvm.debugger.position import Position
from pybpfvm.debugger.terminal.looking import INFO, Looking
from pybpfvm.errors import InputError
from pybpfvm.report.paint import Paint
from pybpfvm.report.words import count, printable

_MOST_STEPS = 1_000_000
_IF = re.compile(r"(?:^|\s)if\b\s*(.*)$", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_WRITTEN = "a register, a variable, an element of a map, user memory, a word of a ring: cq[1].tail"
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


class Commands(Looking):
    """All commands, on one debugger. `say` takes what they print, line by line."""

    def __init__(self, debugger: Debugger, say: Callable[[str], None], paint: Paint) -> None:
        super().__init__(debugger, say, paint)
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
        yield one("info", ("i",), " | ".join(INFO), "what there is", self._info)
        yield one("ring", (), "[NAME | NUMBER]", "queues and requests", self._ring)
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
        first, *rest = before.split()
        known: Iterable[str]
        try:
            command = self._command(first).name
        except InputError:
            command = ""
        match command:
            case "info":
                known = INFO
            case "help":
                known = self.all
            case "break" | "tbreak" | "dprintf" if "if" not in rest:
                known = self._places(rest)
            case "goto":
                known = ("start", "end", "fault")
            case "maps":
                known = self.debugger.maps()
            case _:
                known = self._c_names()
        return [name for name in known if name.startswith(word)]

    def _places(self, before: Sequence[str]) -> list[str]:
        """What could name a place behind these words."""
        placing = self.debugger.placing
        match before:
            case []:
                return sorted({*placing.functions(), "helper", "cqe", "run", "trap"})
            case ["helper"]:
                names = placing.helpers()
                return [*names, *(f"bpf_{one}" for one in names if not one.startswith("bpf_"))]
            case ["run"]:
                return [program.name for _, program in placing.programs]
            case _:
                return ["if"]

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
                self._met(stop)
            case "start":
                self._say("The start of the recording.")
            case "end":  # where one is says so
                for line in self.debugger.ended().splitlines():
                    self._say(printable(line))
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

    def _met(self, stop: Stop) -> None:
        """Say which breakpoints were met, and what became of what they watch."""
        changed = {one.breakpoint.id for one in stop.changes}
        numbers = ", ".join(str(one.id) for one in stop.breakpoints if one.id not in changed)
        if numbers:
            self._say(self._paint(f"Breakpoint {numbers}", "bold"))
        for one in stop.changes:
            watched = one.breakpoint
            name = watched.expression or watched.where
            number = self._paint(f"Watchpoint {watched.id}", "bold")
            self._say(f"{number}: {name}: {printable(one.old)} -> {printable(one.new)}")

    def _goto(self, text: str) -> None:
        history = self.debugger.history
        named = {"start": history.start, "end": history.end, "fault": history.fault()}
        run, colon, insns = text.partition(":")
        if text in named:
            position = named[text]
            if position is None:
                raise InputError("no fault ended the recording", remedy="goto end")
        elif run.isdigit() and (insns.isdigit() or not colon):
            position = self._position(int(run), int(insns)) if colon else self._insn(int(run))
        else:
            raise InputError(
                f"{text!r} is no position" if text else "goto where?",
                remedy="RUN:INSNS, a number of instructions, start, end or fault",
            )
        self._stopped(self.debugger.goto(position))

    def _position(self, run: int, insns: int) -> Position:
        history = self.debugger.history
        position, runs = Position(run, insns), len(history.runs)
        if position == history.end or (run < runs and insns <= history.length(run)):
            return position
        if run < runs:
            there = f"run {run} has {count(history.length(run), 'instruction')}"
            last = Position(run, history.length(run))
        else:
            are = "is" if runs == 1 else "are"
            there = f"there {are} {count(runs, 'run')}, numbered from 0"
            last = history.end
        raise InputError(f"no position {position}: {there}", remedy=f"the last is {last}")

    def _insn(self, number: int) -> Position:
        history = self.debugger.history
        if number > history.insns:
            raise InputError(
                f"the recording has {count(history.insns, 'instruction')}",
                remedy="goto end is its end",
            )
        return history.position_of(number)

    def _seek(self, text: str) -> None:
        first = text.startswith(("first ", "last "))
        word, _, rest = text.partition(" ")
        expression = rest if first else text
        if not expression.strip():
            raise InputError("seek what?", remedy="seek [first] EXPRESSION")
        stop = self.debugger.seek(expression, last=not first or word == "last")
        if cqe := cqe_text(stop):
            self._say(f"cqe: {cqe}")
        self._stopped(stop)

    def _why(self, text: str) -> None:
        if not text:
            raise InputError("why what?", remedy=_WRITTEN)
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
        message = message.strip()
        if not comma or not message:
            raise InputError("dprintf says what?", remedy="dprintf PLACE, TEXT with {EXPR}s")
        one = self._parsed(place)
        quoted = _QUOTED.match(message)
        if quoted is not None:
            rest, one.condition = _split_if(message[quoted.end() :])
            if rest:
                raise InputError(f"{rest!r} behind the text", remedy='dprintf PLACE, "TEXT"')
            one.log_message = _ESCAPED.sub(r"\1", quoted[1])
        else:
            one.log_message, one.condition = _split_if(message)
        self._set(one)

    def _set(self, one: Breakpoint) -> None:
        if not self.debugger.resolve(one).verified:
            raise InputError(f"no breakpoint there: {one.message}")
        self.debugger.set_breakpoint(one, self.frame if self.debugger.frames() else 0)
        what = "Watchpoint" if one.kind == "data" else "Breakpoint"
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
        before = one.condition, one.compiled, one.behind, one.where
        one.condition, one.compiled = condition.strip(), None
        try:
            self.debugger.set_breakpoint(one)
        except InputError:
            one.condition, one.compiled, one.behind, one.where = before
            raise

    def _ignore(self, text: str) -> None:
        number, _, count = text.partition(" ")
        (one,) = self._numbered(number or "none")
        one.hit_condition = f"> {one.hits + self._number(count)}"

    # --- the rest -------------------------------------------------------------------------------

    def _help(self, text: str) -> None:
        commands: Iterable[Command] = [self._command(text)] if text else self.all.values()
        for one in commands:
            others = f" ({', '.join(one.others)})" if one.others else ""
            self._say(f"{one.name}{others}  {one.usage}".rstrip())
            self._say(f"    {one.help}")

    def _quit(self, _: str) -> None:
        raise Quit


def _split_if(text: str) -> tuple[str, str]:
    """What stands before `if`, and behind it. InputError where that is nothing."""
    found = _IF.search(text)
    if found is None:
        return text.strip(), ""
    if not found[1].strip():
        raise InputError("if what?", remedy="an expression, as in: if cqe.res < 0")
    return text[: found.start()].strip(), found[1].strip()


__all__ = ["Command", "Commands", "Quit"]
