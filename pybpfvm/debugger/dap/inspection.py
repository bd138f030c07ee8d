"""What is there where the program stopped: frames, and variables by scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from pybpfvm.bits import s64
from pybpfvm.debugger.dap import arguments as wanted
from pybpfvm.debugger.dap.code import Code
from pybpfvm.debugger.dap.refusal import Refused
from pybpfvm.debugger.dap.ringvariables import ring_shown
from pybpfvm.debugger.dap.sources import Sources
from pybpfvm.debugger.dap.variables import Shown, Tree, of_value, text_rows
from pybpfvm.debugger.debugger import Frame
from pybpfvm.debugger.target import Target
from pybpfvm.errors import InputError
from pybpfvm.expr import ExpressionError, Unreadable
from pybpfvm.expr.ctype import ctype
from pybpfvm.expr.value import Value, value_of
from pybpfvm.maps.base import BpfMap
from pybpfvm.memory import Region
from pybpfvm.program import MapType

Body = dict[str, Any]
_MOST_FRAMES = 1000
_MOST_ELEMENTS = 100_000
_MOST_BLOCK_BYTES = 1 << 20
_PREVIEW_BYTES = 16
_SMALL = 1 << 31  # numbers that are shown in decimal, too


class Inspection:
    """The frames and variables of one stop after the other."""

    def __init__(
        self, target: Target, sources: Sources, code: Code, client: wanted.Initialize
    ) -> None:
        self._target = target
        self._sources = sources
        self._code = code
        self._client = client
        self._tree = Tree()
        self._first_id = 1  # of the frames of this stop: those of others mean nothing any more
        self._frames: list[Frame] | None = None

    def forget(self) -> None:
        """The program moves: nothing that was told holds any longer."""
        self._tree.clear()
        self._first_id += len(self._frames or ())
        self._frames = None

    @property
    def frames(self) -> list[Frame]:
        """The frames, innermost first."""
        if self._frames is None:
            self._frames = self._target.debugger.frames()[:_MOST_FRAMES]
        return self._frames

    def _frame(self, number: int) -> Frame:
        index = number - self._first_id
        if not 0 <= index < len(self.frames):
            raise Refused(f"there is no frame {number} where the program is now")
        return self.frames[index]

    def frame_index(self, number: int | None) -> int:
        """Of a frame that a request is about; the innermost without."""
        return 0 if number is None else self._frame(number).index

    # --- frames -------------------------------------------------------------------------------

    def stack_trace(self, args: wanted.StackTrace) -> Body:
        """The frames of a ring: none, unless a program of it is running."""
        rings = self._target.threads()
        if args.thread_id - 1 not in rings:
            raise Refused(f"there is no thread {args.thread_id}")
        frames = self.frames if args.thread_id - 1 == self._target.thread() else []
        start = max(args.start_frame, 0)
        last = start + args.levels if args.levels > 0 else None
        return {
            "stackFrames": [self._message(one) for one in frames[start:last]],
            "totalFrames": len(frames),
        }

    def _message(self, frame: Frame) -> Body:
        name = f"{frame.function} (inlined)" if frame.inlined else frame.function
        addr = self._target.code.address(frame.program, frame.pc)
        found: Body = {
            "id": self._first_id + frame.index,
            "name": name,
            "line": 0,
            "column": 0,
            "instructionPointerReference": f"{addr:#x}",
        }
        source = self._sources.files.get(frame.file)
        if source is not None and frame.line:
            found["source"] = source.reference()
            found["line"] = frame.line - 1 + self._client.lines_start_at1
            found["column"] = int(self._client.columns_start_at1)
        else:
            found["presentationHint"] = "subtle"
        return found

    # --- scopes -------------------------------------------------------------------------------

    def scopes(self, args: wanted.OfFrame) -> Body:
        """What there is to see in a frame."""
        frame = self._frame(args.frame_id)
        index = frame.index

        def shown(
            name: str, inside: Callable[[], Iterator[Shown]], hint: str = "", *, costs: bool = False
        ) -> Body:
            found: Body = {
                "name": name,
                "variablesReference": self._tree.reference(Shown(name, "", inside=inside)),
                "expensive": costs,
            }
            if hint:
                found["presentationHint"] = hint
            return found

        return {
            "scopes": [
                shown("Locals", lambda: self._locals(index), "locals"),
                shown("Registers", lambda: self._registers(frame), "registers"),
                shown("Maps", self._maps, costs=True),
                shown("Rings", self._rings, costs=True),
                shown("User memory", self._blocks, costs=True),
            ]
        }

    def variables(self, args: wanted.Variables) -> Body:
        """What a scope or a variable consists of."""
        node = self._tree.node(args.variables_reference)
        if node is None:
            raise Refused(f"there are no variables {args.variables_reference} where it is now")
        if args.filter is not None and node.indexed != (args.filter == "indexed"):
            return {"variables": []}
        hexadecimal = args.format is not None and args.format.hex
        return {"variables": self._tree.children(node, args.start, args.count, hexadecimal)}

    def _locals(self, index: int) -> Iterator[Shown]:
        for one in self._target.debugger.variables(index):
            if one.value is None:
                yield Shown(one.name, f"<{one.why}>")
            else:
                yield of_value(one.name, one.value, one.name)

    def _registers(self, frame: Frame) -> Iterator[Shown]:
        scope = self._target.debugger.scope(frame.index)
        ranges = self._target.ranges(frame.program)
        known = ranges.at(frame.pc) if ranges is not None else ()
        for number, value in enumerate(frame.regs):
            text = f"{value:#x}"
            place = scope.describe(value)
            if place:
                text += f" <{place}>"
            elif abs(signed := s64(value)) < _SMALL:
                text += f" = {signed}"
            if number < len(known) and known[number]:
                text += f" | {known[number]}"
            memory = value if place else None
            yield Shown(f"r{number}", text, "u64", memory=memory, evaluate=f"r{number}")
        yield Shown("pc", str(frame.pc), "slots of the program")
        if ranges is not None and ranges.why_none:
            yield Shown("verifier", f"<{ranges.why_none}>", kind="virtual")

    # --- maps ---------------------------------------------------------------------------------

    def _maps(self) -> Iterator[Shown]:
        for name, live in self._target.debugger.maps().items():
            yield self._map(name, live)

    def _map(self, name: str, live: BpfMap) -> Shown:
        spec = live.spec
        kind = _kind(spec.type)
        try:
            count = sum(1 for _ in islice(self._keys(name), _MOST_ELEMENTS))
        except Unreadable as reason:
            return Shown(name, f"{kind}, {spec.max_entries} entries: {reason}")
        more = "+" if count == _MOST_ELEMENTS else ""
        return Shown(
            name,
            f"{kind}, {count}{more} of {spec.max_entries} elements",
            inside=(lambda: self._elements(name, live)) if count else None,
            count=count,
            indexed=True,
        )

    def _keys(self, name: str) -> Iterator[bytes]:
        return iter(self._target.debugger.scope().keys(name))

    def _elements(self, name: str, live: BpfMap) -> Iterator[Shown]:
        spec, scope = live.spec, self._target.debugger.scope()
        for key in scope.keys(name):
            shown = self._typed(spec.btf_key_type_id, key, None)
            title = f"[{shown.text() if shown is not None else key.hex(' ')}]"
            try:
                data = scope.element(name, key)
            except Unreadable as reason:
                yield Shown(title, f"<{reason}>")
                continue
            if data is None:
                continue
            addr = scope.element_addr(name, key)
            value = self._typed(spec.btf_value_type_id, data, addr)
            if value is not None:
                yield of_value(title, value)
            else:
                yield _bytes(title, data, addr)

    def _typed(self, type_id: int, data: bytes, addr: int | None) -> Value | None:
        loaded = self._target.debugger.object
        btf = None if loaded is None else loaded.object.btf
        if btf is None or not type_id:
            return None
        scope = self._target.debugger.scope()
        try:
            if btf.size(type_id) > len(data):
                return None
            return value_of(ctype(btf, type_id), data, addr, scope.byteorder, scope=scope)
        except InputError:
            return None

    # --- rings and memory ---------------------------------------------------------------------

    def _rings(self) -> Iterator[Shown]:
        for ring in self._target.debugger.rings():
            yield ring_shown(ring, self._bpf_opcode())

    def _bpf_opcode(self) -> int | None:
        loaded = self._target.debugger.object
        profile = None if loaded is None else loaded.known_profile
        return None if profile is None or profile.ring is None else profile.ring.bpf_opcode

    def _blocks(self) -> Iterator[Shown]:
        for region in self._target.debugger.blocks():
            yield self._block(region)

    def _block(self, region: Region) -> Shown:
        data = self._target.readable(region.start, min(region.size, _MOST_BLOCK_BYTES))
        return _bytes(region.name, data, region.start, f"{region.size} bytes at {region.start:#x}")

    # --- expressions --------------------------------------------------------------------------

    def evaluate(self, args: wanted.Evaluate) -> Body:
        """An expression in a frame; in a client's console, too."""
        text = args.expression.strip()
        compiled, value = self._evaluated(text, self.frame_index(args.frame_id))
        shown = of_value(text, value, text, compiled)
        message = self._tree.message(shown, args.format is not None and args.format.hex)
        found = {
            "result": message["value"],
            "variablesReference": message["variablesReference"],
            "presentationHint": message["presentationHint"],
        }
        for key in ("type", "namedVariables", "indexedVariables", "memoryReference"):
            if key in message:
                found[key] = message[key]
        return found

    def _evaluated(self, text: str, index: int) -> tuple[str, Value]:
        """Its format letter, and what it comes to. Refused with the reason."""
        from pybpfvm.expr import compile_expression

        scope = self._target.debugger.scope(index)
        try:
            compiled = compile_expression(text, scope)
            return compiled.format, compiled.evaluate(scope)
        except ExpressionError as error:
            raise Refused(str(error)) from None

    def data_of(self, args: wanted.DataBreakpointInfo) -> tuple[tuple[int, int] | None, str]:
        """(address, bytes) of a variable or an expression, or None and why it has none."""
        if args.variables_reference:
            child = self._tree.child(args.variables_reference, args.name)
            if child is None:
                return None, "there is no such variable where the program is now"
            if child.place is not None:
                return child.place, ""
            return None, "it lies nowhere in memory"
        _, value = self._evaluated(args.name, self.frame_index(args.frame_id))
        if value.addr is None or not value.type.size:
            return None, "it lies nowhere in memory"
        return (value.addr, value.type.size), ""


def _kind(number: int) -> str:
    try:
        return MapType(number).name.lower()
    except ValueError:
        return f"type {number}"


def _bytes(name: str, data: bytes, addr: int | None, what: str = "") -> Shown:
    """Bytes of no known type."""
    preview = data[:_PREVIEW_BYTES].hex(" ")
    more = " ..." if len(data) > _PREVIEW_BYTES else ""
    rows = (len(data) + 15) // 16
    return Shown(
        name,
        f"{what}: {preview}{more}" if what else f"{preview}{more}",
        inside=(lambda: text_rows(data, addr or 0)) if rows > 1 else None,
        count=rows,
        indexed=True,
        memory=addr,
        place=None if addr is None else (addr, len(data)),
    )
