"""A client of the Debug Adapter Protocol for tests, written from its specification.

Each message that comes is held against the specification's JSON schema where debugpy, which ships
it, is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, BinaryIO

import jsonschema

from pybpfvm.debugger.dap.adapter import Adapter
from pybpfvm.debugger.dap.wire import Incoming, encoded, read_message

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 30.0
Message = dict[str, Any]


class Failed(Exception):
    """A request was refused."""


class Client:
    """Talks to an adapter through two streams. `events` are all that came and were not waited for,
    `output` is what was said, by category."""

    def __init__(self, source: Incoming, sink: BinaryIO) -> None:
        self.timeout_s = TIMEOUT_S
        self._source = source
        self._sink = sink
        self._seq = 0
        self._came: Queue[Message | None] = Queue()
        self.events: list[Message] = []
        self.output: dict[str, str] = {}
        self.capabilities: Message = {}
        self._commands: dict[int, str] = {}
        self._responses: dict[int, Message] = {}
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while (message := read_message(self._source)) is not None:
                self._came.put(message)
        except (OSError, ValueError):
            pass
        self._came.put(None)

    # --- what is sent -------------------------------------------------------------------------

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._sink.write(data)
        self._sink.flush()

    def send(self, command: str, arguments: object = None) -> int:
        """A request; its number."""
        self._seq += 1
        message: Message = {"seq": self._seq, "type": "request", "command": command}
        if arguments is not None:
            message["arguments"] = arguments
        self._commands[self._seq] = command
        self.raw(encoded(message))
        return self._seq

    def ask(self, command: str, **arguments: Any) -> Message:
        """A request, and the body of its answer. Raises Failed with the reason."""
        return self.answer(self.send(command, arguments))

    def answer(self, seq: int) -> Message:
        """The body of the answer to a request that was sent."""
        self._until(lambda: seq in self._responses)
        message = self._responses.pop(seq)
        if not message["success"]:
            error = message["body"]["error"]
            assert message["message"] == error["format"].format(**error["variables"])
            raise Failed(message["message"])
        body: Message = message.get("body", {})
        return body

    # --- what comes ---------------------------------------------------------------------------

    def _until(self, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.timeout_s
        while not there():
            try:
                message = self._came.get(timeout=max(deadline - time.monotonic(), 0.01))
            except Empty:
                raise AssertionError("the adapter does not answer") from None
            if message is None:
                self._came.put(None)
                raise EOFError("the adapter has gone")
            self._take(message)

    def _take(self, message: Message) -> None:
        validate(message)
        if message["type"] == "response":
            assert message["command"] == self._commands[message["request_seq"]]
            self._responses[message["request_seq"]] = message
            return
        assert message["type"] == "event"
        if message["event"] == "output":
            category = message["body"]["category"]
            text = message["body"]["output"]
            self.output[category] = self.output.get(category, "") + text
        else:
            self.events.append(message)

    def event(self, name: str) -> Message:
        """The body of the next event of that name."""

        def found() -> int | None:
            return next((n for n, one in enumerate(self.events) if one["event"] == name), None)

        self._until(lambda: found() is not None)
        place = found()
        assert place is not None
        body: Message = self.events.pop(place).get("body", {})
        return body

    def wait_for_output(self, category: str, text: str) -> None:
        """Until that was said."""
        self._until(lambda: text in self.output.get(category, ""))

    def gone(self) -> bool:
        """Whether the adapter ends, or has ended, the connection."""
        try:
            self._until(lambda: False)
        except EOFError:
            return True
        return False

    # --- what clients do ----------------------------------------------------------------------

    def initialize(self, **more: Any) -> None:
        """As the first."""
        self.capabilities = self.ask(
            "initialize",
            clientID="tests",
            adapterID="pybpfvm",
            linesStartAt1=True,
            columnsStartAt1=True,
            pathFormat="path",
            supportsProgressReporting=True,
            **more,
        )

    def launch(self, **arguments: Any) -> None:
        """Up to where breakpoints can be set."""
        if not self.capabilities:
            self.initialize()
        self.ask("launch", **arguments)
        self.event("initialized")

    def start(self, **arguments: Any) -> Message:
        """Launch without breakpoints; where it stopped."""
        self.launch(**arguments)
        self.ask("configurationDone")
        return self.event("stopped")

    def move(self, command: str, **arguments: Any) -> Message:
        """Move; where it stopped."""
        self.ask(command, threadId=1, **arguments)
        return self.event("stopped")

    def frames(self, thread: int = 2) -> list[Message]:
        """The frames of a thread: the second is the first ring's."""
        found: list[Message] = self.ask("stackTrace", threadId=thread)["stackFrames"]
        return found

    def scope(self, name: str, frame: int | None = None) -> dict[str, Message]:
        """The variables of a scope of the innermost frame, by name."""
        number = self.frames()[0]["id"] if frame is None else frame
        scopes = self.ask("scopes", frameId=number)["scopes"]
        (reference,) = (one["variablesReference"] for one in scopes if one["name"] == name)
        return self.inside(reference)

    def inside(self, reference: int) -> dict[str, Message]:
        """What a variable consists of, by name."""
        found = self.ask("variables", variablesReference=reference)["variables"]
        return {one["name"]: one for one in found}

    def evaluate(self, text: str, **more: Any) -> str:
        """What an expression comes to in the innermost frame."""
        frame = self.frames()[0]["id"]
        found: str = self.ask("evaluate", expression=text, frameId=frame, **more)["result"]
        return found


@contextmanager
def spawned(*, ends_well: bool = True) -> Iterator[Client]:
    """A client of an adapter of its own, on its stdin and stdout."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pybpfvm", "dap"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        fd = process.stdout.fileno()
        yield Client(Incoming(lambda size: os.read(fd, size)), process.stdin)  # type: ignore[arg-type]
        process.stdin.close()
        code = process.wait(TIMEOUT_S)
        said = process.stderr.read().decode()
        assert said == ""
        assert code == 0 or not ends_well
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@contextmanager
def inside() -> Iterator[Client]:
    """A client of an adapter in this process: what is replayed must find its addresses free."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("wb") as sink, theirs.makefile("wb") as answers:
        adapter = Adapter(Incoming(theirs.recv), answers)
        thread = Thread(target=adapter.serve, daemon=True)
        thread.start()
        try:
            yield Client(Incoming(ours.recv), sink)
        finally:
            ours.shutdown(socket.SHUT_WR)
            thread.join(TIMEOUT_S)
        assert not thread.is_alive()


@contextmanager
def connected(port: int) -> Iterator[Client]:
    """A client of the adapter that listens on a port."""
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection,
        connection.makefile("wb") as sink,
    ):
        yield Client(Incoming(connection.recv), sink)


@lru_cache(maxsize=1)
def _schema() -> Message | None:
    found = importlib.util.find_spec("debugpy")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "_vendored/pydevd/_pydevd_bundle/_debug_adapter"
    file = folder / "debugProtocol.json"
    schema: Message = json.loads(file.read_text(encoding="utf-8"))
    return schema


@lru_cache(maxsize=100)
def _validator(name: str) -> jsonschema.Draft4Validator | None:
    schema = _schema()
    if schema is None or name not in schema["definitions"]:
        return None
    return jsonschema.Draft4Validator({**schema, "$ref": f"#/definitions/{name}"})


def has_schema() -> bool:
    """Whether messages can be held against the specification's schema."""
    return _schema() is not None


def validate(message: Message) -> None:
    """Hold a message that came against the schema, where there is one."""
    if message["type"] == "event":
        name = f"{message['event'][0].upper()}{message['event'][1:]}Event"
    elif message["success"]:
        name = f"{message['command'][0].upper()}{message['command'][1:]}Response"
    else:
        name = "ErrorResponse"
    validator = _validator(name)
    if validator is not None:
        validator.validate(message)
