"""How soon a debug adapter answers: requests of an editor over a socket, in a recording of 10^8
instructions in 1,000 runs that was opened anew. Medians; seconds are those of the clock."""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

from bench.debugger import _record as record
from pybpfvm.debugger.dap.adapter import Adapter
from pybpfvm.debugger.dap.wire import Incoming, encoded, read_message
from pybpfvm.session.engines import jit_refusal

Rows = list[tuple[str, float, str]]

_RUNS = 1_000
_REPEATS = 15
_SOURCE = Path(__file__).parent / "programs" / "longrun.bpf.c"
_LINE = 24  # the body of its loop
_THREAD = {"threadId": 1}


class _Editor:
    """Asks one thing after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = Incoming(connection.recv)
        self._seq = 0

    def ask(self, command: str, arguments: object = None, *, until: str = "") -> dict[str, Any]:
        """The body of the answer, or that of the event `until`."""
        self._seq += 1
        request = {"seq": self._seq, "type": "request", "command": command}
        self._connection.sendall(encoded(request | {"arguments": arguments or {}}))
        while True:
            message = read_message(self._stream)
            if message is None:
                raise AssertionError("the adapter has gone")
            if message["type"] == "response" and not message["success"]:
                raise AssertionError(message["message"])
            name = message.get("event") if until else message.get("request_seq")
            if name == (until or self._seq):
                body: dict[str, Any] = message.get("body", {})
                return body


def run() -> Rows:
    """All rows, where the JIT can run."""
    refused = jit_refusal()
    if refused is not None:
        print(f"the debug adapter skipped: {refused}")
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.bpftrace"
        record(path, _RUNS)
        ours, theirs = socket.socketpair()
        with ours, theirs, theirs.makefile("wb") as sink:
            thread = Thread(target=Adapter(Incoming(theirs.recv), sink).serve, daemon=True)
            thread.start()
            rows = _asked(_Editor(ours), path)
            thread.join()
    return rows


def _asked(editor: _Editor, path: Path) -> Rows:
    rows: Rows = []

    def timed(
        what: str, command: str, arguments: object = None, *, until: str = "", repeats: int = 1
    ) -> dict[str, Any]:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            found = editor.ask(command, arguments, until=until)
            times.append(1e3 * (time.perf_counter() - start))
        rows.append((what, statistics.median(times), "ms"))
        return found

    editor.ask("initialize", {"adapterID": "pybpfvm"})
    timed("launch", "launch", {"recording": str(path), "stopAt": "start"}, until="initialized")
    point = {"line": _LINE, "condition": "turn == 10000", "hitCondition": "== 500"}
    source = {"path": str(_SOURCE)}
    editor.ask("configurationDone", until="stopped")
    for how in ("next", "stepIn", "stepBack"):
        timed(f"{how}, a line", how, _THREAD, until="stopped", repeats=_REPEATS)
    by_insn = {**_THREAD, "granularity": "instruction"}
    timed("next, an instruction", "next", by_insn, until="stopped", repeats=_REPEATS)
    timed("continue to the end", "continue", _THREAD, until="stopped")
    timed("stepBack at the end, first", "stepBack", by_insn, until="stopped")
    timed("stepBack at the end", "stepBack", by_insn, until="stopped", repeats=_REPEATS)
    editor.ask("stepBack", _THREAD, until="stopped")
    timed("stackTrace", "stackTrace", _THREAD, repeats=_REPEATS)
    frame = editor.ask("stackTrace", _THREAD)["stackFrames"][0]
    timed("scopes", "scopes", {"frameId": frame["id"]}, repeats=_REPEATS)
    for scope in editor.ask("scopes", {"frameId": frame["id"]})["scopes"]:
        inside = {"variablesReference": scope["variablesReference"]}
        timed(f"variables, {scope['name'].lower()}, first", "variables", inside)
        timed(f"variables, {scope['name'].lower()}", "variables", inside, repeats=_REPEATS)
    watch = {"expression": "own + sums[0]", "frameId": frame["id"], "context": "watch"}
    timed("evaluate", "evaluate", watch, repeats=_REPEATS)
    code = {"memoryReference": frame["instructionPointerReference"], "instructionCount": 400}
    timed("disassemble 400 instructions", "disassemble", code, repeats=_REPEATS)
    lines = {"source": source, "breakpoints": [{"line": _LINE}]}
    timed("setBreakpoints", "setBreakpoints", lines, repeats=_REPEATS)
    timed("reverseContinue to a breakpoint near", "reverseContinue", _THREAD, until="stopped")
    timed(
        "setBreakpoints, a condition", "setBreakpoints", {"source": source, "breakpoints": [point]}
    )
    timed("disconnect", "disconnect")
    return rows
