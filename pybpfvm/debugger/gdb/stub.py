"""What each packet of a GDB client does.

"Debugging with GDB", appendix "GDB Remote Serial Protocol". A ring is a thread, a recording is
one process. Addresses of code are those of `codespace`, all others are true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from pybpfvm.debugger.breakpoints import Breakpoint
from pybpfvm.debugger.console import Console
from pybpfvm.debugger.debugger import Debugger, How, Stop
from pybpfvm.debugger.gdb.packets import MAX_PACKET_BYTES, ClientGone, Interrupted, Packets, Stream
from pybpfvm.debugger.gdb.target_xml import ALL, PC, Register, target_xml
from pybpfvm.debugger.target import Target
from pybpfvm.errors import PybpfvmError

_OK, _UNKNOWN = b"OK", b""
_WRITE_REFUSED = b"E01"  # EPERM: a recording can not be changed
_MALFORMED, _NO_MEMORY, _NO_THREAD, _FAILED = b"E16", b"E0e", b"E03", b"E05"
_TRAP, _FAULT, _INT, _ABRT = 5, 11, 2, 6  # GDB's numbers for what stopped a program
_U64 = (1 << 64) - 1
_MOST_BYTES = MAX_PACKET_BYTES // 2 - 16
_STEPS: Mapping[str, tuple[How, bool]] = {
    "s": ("stepi", False),
    "c": ("continue", False),
    "bs": ("stepi", True),
    "bc": ("continue", True),
}
_NUMBERS = re.compile(r"([0-9a-f]+),([0-9a-f]+)\Z", re.IGNORECASE)
_POINT = re.compile(r"([01234]),([0-9a-f]+),([0-9a-f]+)(;.*)?\Z", re.IGNORECASE)
_MOST_TOLD = 4000  # characters in a packet
_MOVED = 'GDB shows where it was: say "maintenance flush register-cache" and "frame"\n'


class Stub:
    """Serves one client of `debugger` through `stream`, from `serve` on."""

    def __init__(self, debugger: Debugger, stream: Stream) -> None:
        self._debugger = debugger
        self._target = Target(debugger)
        self._console = Console(debugger)
        self._packets = Packets(stream, debugger.interrupt)
        self._points: dict[tuple[int, int, int], Breakpoint] = {}
        self._last = self._first_stop()
        self._reports_breaks: set[str] = set()
        self._going = True

    def serve(self) -> None:
        """Answer packets until the client leaves, or is gone."""
        try:
            while self._going:
                packet = self._packets.next()
                if packet is None:
                    return
                if isinstance(packet, Interrupted):
                    continue  # what it was to stop has stopped
                answer = self._answered(packet)
                if answer is not None:
                    self._packets.send(answer)
        except ClientGone:
            pass
        finally:
            for point in self._points.values():
                self._debugger.clear(point.id)

    def _answered(self, packet: bytes) -> bytes | None:
        """The answer; None if there is to be none."""
        text = packet.decode("latin-1")
        try:
            for name, handler in _PACKETS:
                if text.startswith(name):
                    return handler(self, text[len(name) :])
        except PybpfvmError:
            return _FAILED
        except ValueError:
            return _MALFORMED
        return _UNKNOWN

    # --- what there is ------------------------------------------------------------------------

    def _supported(self, features: str) -> bytes:
        theirs = features.removeprefix(":").split(";")
        self._reports_breaks = {
            one.removesuffix("+") for one in theirs if one in ("swbreak+", "hwbreak+")
        }
        ours = (
            f"PacketSize={MAX_PACKET_BYTES:x}",
            "QStartNoAckMode+",
            "qXfer:features:read+",
            "ReverseStep+",
            "ReverseContinue+",
            "vContSupported+",
            "swbreak+",
            "hwbreak+",
        )
        return ";".join(ours).encode()

    def _features(self, rest: str) -> bytes:
        name, _, where = rest.partition(":")
        offset, size = _two(where)
        if name != "target.xml":
            return b"E00"
        data = target_xml().encode()
        size = min(size, _MOST_BYTES)
        part = data[offset : offset + size]
        return (b"m" if offset + size < len(data) else b"l") + part

    def _values(self) -> list[int | None]:
        """r0 to r10 and the pc. Where no program is executing there are none: the pc is 0 then, as
        GDB goes nowhere without one."""
        frames = self._debugger.frames()
        if not frames:
            return [*[None] * PC, 0]
        one = frames[0]
        return [*one.regs, self._target.code.address(one.program, one.pc)]

    def _hex(self, register: Register) -> bytes:
        """A register's bytes; x for a digit that there is not."""
        value = self._values()[register.value]
        if value is None:
            return b"xx" * register.size
        program = self._debugger.program
        order: Literal["big", "little"] = (
            "big" if program is not None and program.big_endian else "little"
        )
        value &= (1 << 8 * register.size) - 1
        return value.to_bytes(register.size, order).hex().encode()

    def _read_registers(self, _: str) -> bytes:
        return b"".join(self._hex(one) for one in ALL if one.joined)

    def _read_register(self, rest: str) -> bytes:
        number = int(rest, 16)
        return self._hex(ALL[number]) if 0 <= number < len(ALL) else b"E00"

    def _read_memory(self, rest: str) -> bytes:
        addr, size = _two(rest)
        size = min(size, _MOST_BYTES)
        place = self._target.code.place(addr)
        if place is not None:
            start = addr - self._target.code.address(place[0], 0)
            data = self._target.code_bytes(place[0])[start : start + size]
        else:
            data = self._target.readable(addr & _U64, size)
        return data.hex().encode() if data or not size else _NO_MEMORY

    def _refuse_write(self, _: str) -> bytes:
        return _WRITE_REFUSED

    # --- threads ------------------------------------------------------------------------------

    def _thread(self) -> int:
        return self._target.thread() + 1

    def _all_threads(self, _: str) -> bytes:
        found = ",".join(f"{ring + 1:x}" for ring in self._target.threads())
        return b"m" + found.encode()

    def _no_more_threads(self, _: str) -> bytes:
        return b"l"

    def _current_thread(self, rest: str) -> bytes:
        return _UNKNOWN if rest else b"QC%x" % self._thread()

    def _choose_thread(self, rest: str) -> bytes:
        number = int(rest[1:], 16) if rest[:1] in ("g", "c") else -2
        return _OK if number in (-1, 0) or number - 1 in self._target.threads() else _NO_THREAD

    def _is_alive(self, rest: str) -> bytes:
        return _OK if int(rest, 16) - 1 in self._target.threads() else _NO_THREAD

    def _thread_name(self, rest: str) -> bytes:
        name = self._target.threads().get(int(rest, 16) - 1)
        return _NO_THREAD if name is None else name.encode().hex().encode()

    # --- moving -------------------------------------------------------------------------------

    def _first_stop(self) -> Stop:
        fault = self._debugger.history.fault()
        at_fault = fault is not None and self._debugger.position == fault
        return Stop("trap" if at_fault else "step", self._debugger.position)

    def _why(self, _: str = "") -> bytes:
        """The stop reply of the last move."""
        stop = self._last
        more = ""
        signal = _TRAP
        kinds = {one.kind for one in stop.breakpoints}
        if stop.reason == "trap" or "trap" in kinds:
            signal = _FAULT
        elif stop.reason == "pause":
            signal = _INT
        elif stop.reason == "diverged":
            signal = _ABRT
        elif stop.reason in ("end", "start"):
            more = f"replaylog:{'begin' if stop.reason == 'start' else 'end'};"
        elif "data" in kinds:
            watched = next(one for one in stop.breakpoints if one.kind == "data")
            more = f"watch:{watched.addr:x};"
        elif "insn" in kinds:
            more = self._which_break(stop)
        where = f"{PC:02x}:{self._hex(ALL[PC]).decode()};"
        return f"T{signal:02x}thread:{self._thread():x};{where}{more}".encode()

    def _which_break(self, stop: Stop) -> str:
        ids = {one.id for one in stop.breakpoints}
        for (kind, _, _), point in self._points.items():
            name = "swbreak" if kind == 0 else "hwbreak"
            if point.id in ids and name in self._reports_breaks:
                return f"{name}:;"
        return ""

    def _move(self, how: How, backward: bool) -> bytes:
        self._last = self._debugger.move(how, backward=backward)
        for line in self._last.log:
            self._packets.send(b"O" + f"{line}\n".encode().hex().encode())
        return self._why()

    def _step(self, rest: str) -> bytes:
        return _UNKNOWN if rest else self._move(*_STEPS["s"])

    def _go_on(self, rest: str) -> bytes:
        return _UNKNOWN if rest else self._move(*_STEPS["c"])

    def _step_back(self, rest: str) -> bytes:
        return _UNKNOWN if rest else self._move(*_STEPS["bs"])

    def _go_back(self, rest: str) -> bytes:
        return _UNKNOWN if rest else self._move(*_STEPS["bc"])

    def _with_signal(self, how: str, rest: str) -> bytes:
        int(rest.partition(";")[0], 16)
        return self._move(*_STEPS[how])

    def _step_with_signal(self, rest: str) -> bytes:
        return self._with_signal("s", rest)

    def _go_on_with_signal(self, rest: str) -> bytes:
        return self._with_signal("c", rest)

    def _actions(self, _: str) -> bytes:
        return b"vCont;c;C;s;S"

    def _act(self, rest: str) -> bytes:
        """The first action counts: rings do not run beside one another."""
        action = rest.split(";")[0].partition(":")[0]
        if action[:1] not in ("c", "C", "s", "S"):
            return _MALFORMED
        return self._move(*_STEPS[action[0].lower()])

    # --- breakpoints --------------------------------------------------------------------------

    def _insert(self, rest: str) -> bytes:
        key = _point(rest)
        kind, addr, size = key
        if kind > 2:
            return _UNKNOWN  # only writes are noticed
        if key in self._points:
            return _OK
        if kind == 2:
            wanted = Breakpoint("data", addr=addr, size=size)
        else:
            place = self._target.code.place(addr)
            if place is None:
                return _NO_MEMORY
            wanted = Breakpoint("insn", program=place[0].name, pc=place[1])
        point = self._debugger.set_breakpoint(wanted)
        if not point.verified:
            self._debugger.clear(point.id)
            return _NO_MEMORY
        self._points[key] = point
        return _OK

    def _remove(self, rest: str) -> bytes:
        key = _point(rest)
        if key[0] > 2:
            return _UNKNOWN
        point = self._points.pop(key, None)
        if point is not None:
            self._debugger.clear(point.id)
        return _OK

    # --- commands, and the end ------------------------------------------------------------------

    def _command(self, rest: str) -> bytes:
        line = bytes.fromhex(rest).decode("utf-8", "replace").strip()
        before = self._debugger.position
        text = self._console.execute(line or "help")
        if self._debugger.position != before:
            self._last = Stop("goto", self._debugger.position)
            text += _MOVED
        for start in range(0, len(text), _MOST_TOLD):
            part = text[start : start + _MOST_TOLD]
            self._packets.send(b"O" + part.encode("utf-8", "replace").hex().encode())
        return _OK

    def _ok(self, _: str) -> bytes:
        return _OK

    def _attached(self, _: str) -> bytes:
        return b"1"

    def _detach(self, _: str) -> bytes:
        self._going = False
        return _OK

    def _kill(self, _: str) -> bytes | None:
        self._going = False
        return None

    def _kill_politely(self, _: str) -> bytes:
        self._going = False
        return _OK


_Handler = Callable[[Stub, str], bytes | None]
# By how packets begin; the first that fits is meant.
_PACKETS: tuple[tuple[str, _Handler], ...] = (
    ("qSupported", Stub._supported),
    ("qXfer:features:read:", Stub._features),
    ("qfThreadInfo", Stub._all_threads),
    ("qsThreadInfo", Stub._no_more_threads),
    ("qThreadExtraInfo,", Stub._thread_name),
    ("qAttached", Stub._attached),
    ("qSymbol:", Stub._ok),
    ("qRcmd,", Stub._command),
    ("qC", Stub._current_thread),
    ("QStartNoAckMode", Stub._ok),
    ("vCont?", Stub._actions),
    ("vCont;", Stub._act),
    ("vKill;", Stub._kill_politely),
    ("?", Stub._why),
    ("g", Stub._read_registers),
    ("p", Stub._read_register),
    ("m", Stub._read_memory),
    ("G", Stub._refuse_write),
    ("P", Stub._refuse_write),
    ("M", Stub._refuse_write),
    ("X", Stub._refuse_write),
    ("H", Stub._choose_thread),
    ("T", Stub._is_alive),
    ("Z", Stub._insert),
    ("z", Stub._remove),
    ("bs", Stub._step_back),
    ("bc", Stub._go_back),
    ("s", Stub._step),
    ("c", Stub._go_on),
    ("S", Stub._step_with_signal),
    ("C", Stub._go_on_with_signal),
    ("D", Stub._detach),
    ("k", Stub._kill),
)


def _two(text: str) -> tuple[int, int]:
    """Two hexadecimal numbers. Raises ValueError."""
    found = _NUMBERS.match(text)
    if found is None:
        raise ValueError(text)
    return int(found[1], 16), int(found[2], 16)


def _point(text: str) -> tuple[int, int, int]:
    """Type, address and kind of a breakpoint. Raises ValueError."""
    found = _POINT.match(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]), int(found[2], 16), int(found[3], 16)
