"""The client side of others drives the adapter: debugpy's channel of messages, if that is there."""

from __future__ import annotations

import socket
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from pybpfvm.debugger.dap.adapter import Adapter
from pybpfvm.debugger.dap.wire import Incoming
from tests.debugger.recorded import PINGPONG_C, line_of, record_pingpong

messaging: Any = pytest.importorskip(
    "debugpy.common.messaging", reason="debugpy (extra dev) is not installed"
)


class _Handlers:
    """Keeps events."""

    def __init__(self) -> None:
        self.came: Queue[Any] = Queue()

    def event(self, event: Any) -> None:
        self.came.put(event)

    def disconnect(self) -> None:
        pass

    def until(self, name: str) -> Any:
        while (event := self.came.get(timeout=60)).event != name:
            pass
        return event.body


def test_a_session_by_a_client_library(tmp_path: Path) -> None:
    recording = record_pingpong(tmp_path / "t.bpftrace")
    ours, theirs = socket.socketpair()
    handlers = _Handlers()
    with ours, theirs, theirs.makefile("wb") as sink:
        adapter = Adapter(Incoming(theirs.recv), sink)
        thread = Thread(target=adapter.serve, daemon=True)
        thread.start()
        stream = messaging.JsonIOStream.from_socket(ours, "adapter")
        channel = messaging.JsonMessageChannel(stream, handlers)
        channel.start()
        assert channel.request("initialize", {"adapterID": "pybpfvm"})["supportsStepBack"]
        channel.request("launch", {"recording": str(recording)})
        handlers.until("initialized")
        line = line_of(PINGPONG_C, "*seen = me")
        points = [{"line": line, "condition": "me.own_cq == 2"}]
        found = channel.request(
            "setBreakpoints", {"source": {"path": str(PINGPONG_C)}, "breakpoints": points}
        )
        (point,) = found["breakpoints"]
        assert point["verified"]
        channel.request("configurationDone")
        assert handlers.until("stopped")["reason"] == "entry"
        channel.request("continue", {"threadId": 2})
        stop = handlers.until("stopped")
        assert (stop["reason"], list(stop["hitBreakpointIds"])) == ("breakpoint", [point["id"]])
        (thread_,) = channel.request("threads")["threads"]
        frames = channel.request("stackTrace", {"threadId": thread_["id"]})["stackFrames"]
        assert (frames[0]["name"], frames[0]["line"]) == ("player", line)
        for scope in channel.request("scopes", {"frameId": frames[0]["id"]})["scopes"]:
            reference = {"variablesReference": scope["variablesReference"]}
            assert channel.request("variables", reference)["variables"]
        expression = {"expression": "me.own_cq", "frameId": frames[0]["id"], "context": "hover"}
        assert channel.request("evaluate", expression)["result"] == "2"
        channel.request("stepBack", {"threadId": 2})
        assert handlers.until("stopped")["reason"] == "step"
        with pytest.raises(messaging.MessageHandlingError, match="can not be changed"):
            channel.request("setVariable", {"variablesReference": 1, "name": "r0", "value": "1"})
        channel.request("disconnect")
        thread.join(60)
        assert not thread.is_alive()
        ours.shutdown(socket.SHUT_RDWR)
