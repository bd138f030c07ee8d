"""A debug adapter: what each request of a client does, in the order that they come.

Requests are answered one after the other. While the program moves the thread that reads answers
those that can not wait: it ends the move for a pause, and for a client that leaves or is gone;
refuses to move a second time; and tells the threads. All else waits until the move has ended.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from pybpfvm.debugger.dap import arguments as wanted
from pybpfvm.debugger.dap.arguments import ArgumentsError, arguments
from pybpfvm.debugger.dap.connection import (
    ClientGone,
    Connection,
    Request,
    Unusable,
    Writable,
)
from pybpfvm.debugger.dap.launching import recording_of
from pybpfvm.debugger.dap.progress import Progress
from pybpfvm.debugger.dap.refusal import Refused
from pybpfvm.debugger.dap.session import Session
from pybpfvm.debugger.dap.wire import Readable
from pybpfvm.debugger.debugger import How
from pybpfvm.errors import PybpfvmError

Body = Mapping[str, Any]
_OUTPUT_CHARS = 1 << 16  # lines that come together are told together
_STOP_AT = ("auto", "start", "end")
# What can be asked before anything is launched.
_EARLY = frozenset({"initialize", "launch", "attach", "disconnect", "terminate", "cancel"})
_LEAVING = frozenset({"disconnect", "terminate"})
_MOVES = frozenset({"continue", "reverseContinue", "next", "stepIn", "stepOut", "stepBack"})
_NOT_STOPPED = "notStopped"  # the protocol's word for why something can not be done now
_AGAIN_S = 0.02
_FILTERS = (
    ("trap", "Traps", "A program does what it must not", True, ""),
    ("hang", "Hangs", "The ring can make no progress any more", True, ""),
    ("failed", "Failed expectations", "The recorded run did not do what was expected", True, ""),
    ("cqe", "CQEs with res < 0", "A completion with an error is posted", False, "an expression"),
    ("helper", "Helper calls", "A helper is called", False, "its name, or: its name if ret < 0"),
)
CAPABILITIES: Body = {
    "supportsConfigurationDoneRequest": True,
    "supportsFunctionBreakpoints": True,
    "supportsConditionalBreakpoints": True,
    "supportsHitConditionalBreakpoints": True,
    "supportsLogPoints": True,
    "supportsEvaluateForHovers": True,
    "supportsStepBack": True,
    "supportsGotoTargetsRequest": True,
    "supportsExceptionInfoRequest": True,
    "supportsExceptionFilterOptions": True,
    "supportsValueFormattingOptions": True,
    "supportsDelayedStackTraceLoading": True,
    "supportsLoadedSourcesRequest": True,
    "supportsTerminateRequest": True,
    "supportsDataBreakpoints": True,
    "supportsReadMemoryRequest": True,
    "supportsDisassembleRequest": True,
    "supportsCancelRequest": True,
    "supportsCompletionsRequest": True,
    "supportsBreakpointLocationsRequest": True,
    "supportsSteppingGranularity": True,
    "supportsInstructionBreakpoints": True,
    "exceptionBreakpointFilters": [
        {
            "filter": name,
            "label": label,
            "description": description,
            "default": default,
            **({"supportsCondition": True, "conditionDescription": condition} if condition else {}),
        }
        for name, label, description, default, condition in _FILTERS
    ],
}


@dataclass(frozen=True, slots=True)
class _Move:
    """What is to be done once a request was answered."""

    how: How
    backward: bool = False


class Adapter:
    """Serves one client, from `serve` on; what it opened is closed then."""

    def __init__(self, source: Readable, sink: Writable) -> None:
        self._session: Session | None = None
        self._initialized: wanted.Initialize | None = None
        self._launched: wanted.Launch | None = None
        self._configured = False
        self._work = 0  # how many pieces of long work there were
        self._interrupting = Event()  # the client does not want to wait any longer
        self._leaving = Event()
        self._moving = Event()
        self._running = False  # from when a move is asked for until its end is told
        self._run_lock = Lock()  # of that and of whether it is to be interrupted
        self._then: list[Callable[[], None]] = []  # once the request was answered
        self._connection = Connection(source, sink, self._came)

    def serve(self) -> None:
        """Answer requests until the client leaves, or is gone."""
        try:
            with tempfile.TemporaryDirectory(prefix="pybpfvm-dap-") as folder:
                self._folder = Path(folder)
                while self._next():
                    pass
        except ClientGone:
            pass
        finally:
            if self._session is not None:
                self._session.close()

    # --- the thread that reads ----------------------------------------------------------------

    def _came(self, request: Request | None) -> bool:
        """Whether that was all there is to do about it."""
        if request is None or request.command in _LEAVING:
            self._leaving.set()
        elif request.command == "cancel":
            self._interrupting.set()
        else:
            return self._while_running(request)
        self._interrupt()
        return False

    def _while_running(self, request: Request) -> bool:
        """Answer what can not wait until a move has ended, if one is going on."""
        command = request.command
        with self._run_lock:
            running = self._running
            if command == "pause":
                running = running or self._moving.is_set()  # what the console does, too
            if not running:
                self._running = command in _MOVES and self._configured
                return False
            try:
                if command == "pause":
                    self._connection.answer(request)
                    self._interrupting.set()
                elif command in _MOVES or command == "goto":
                    self._connection.refuse(request, _NOT_STOPPED)
                elif command == "threads" and self._session is not None:
                    self._connection.answer(request, {"threads": self._session.threads()})
                else:
                    return False
            except ClientGone:
                return True
        if command == "pause":
            self._interrupt()
        return True

    def _rests(self) -> None:
        """No move is going on any more."""
        with self._run_lock:
            self._running = False
            self._interrupting.clear()

    def _interrupt(self) -> None:
        if self._session is None:
            return
        self._session.interrupt()
        if self._moving.is_set():  # a move that was just about to begin did not hear it
            time.sleep(_AGAIN_S)
            self._session.interrupt()

    # --- requests -----------------------------------------------------------------------------

    def _next(self) -> bool:
        """Do what is asked next; whether there may be more."""
        request = self._connection.next()
        if request is None:
            return False
        if isinstance(request, Unusable):
            self._tell("important", f"what came is no request: {request.reason}\n")
            return True
        self._answer(request)
        then, self._then = self._then, []
        for one in then:
            one()
        return request.command not in _LEAVING

    def _answer(self, request: Request) -> None:
        """Do what is asked, and tell that it was done or why it was not."""
        show = False
        try:
            body = self._done(request)
        except ClientGone:
            raise
        except Refused as refused:
            reason, show = str(refused), refused.show
        except ArgumentsError as error:
            reason = str(error)
        except PybpfvmError as error:
            reason, show = str(error), request.command == "launch"
        except (Exception, RecursionError) as error:
            reason = f"internal error (a bug of pybpfvm, please report it): {error!r}"
            show = True
        else:
            self._connection.answer(request, body)
            return
        if request.command in _MOVES:
            self._rests()
        self._connection.refuse(request, reason, show=show)

    def _done(self, request: Request) -> Body | None:
        command = request.command
        found = _REQUESTS.get(command)
        if found is None:
            raise Refused(_REASONS.get(command, f"there is no request {command!r} here"))
        kind, handler = found
        if command != "initialize" and self._initialized is None and command not in _LEAVING:
            raise Refused(f"{command} before initialize")
        if command not in _EARLY and self._session is None:
            raise Refused(f"{command} before anything was launched")
        return handler(self, arguments(kind, request.arguments))

    @property
    def session(self) -> Session:
        """What was launched."""
        if self._session is None:
            raise Refused("nothing was launched")
        return self._session

    def _tell(self, category: str, text: str) -> None:
        self._connection.event("output", {"category": category, "output": text})

    def _tell_lines(self, category: str, lines: list[str]) -> None:
        """Lines without their ends; many in one message."""
        taken: list[str] = []
        size = 0
        for line in lines:
            taken.append(f"{line}\n")
            size += len(line)
            if size > _OUTPUT_CHARS:
                self._tell(category, "".join(taken))
                taken, size = [], 0
        if taken:
            self._tell(category, "".join(taken))

    # --- beginning and end --------------------------------------------------------------------

    def _initialize(self, args: wanted.Initialize) -> Body:
        if self._initialized is not None:
            raise Refused("initialize was asked before")
        if args.path_format != "path":
            raise Refused(f"paths as {args.path_format!r}: only as 'path'", show=True)
        self._initialized = args
        return CAPABILITIES

    def _launch(self, args: wanted.Launch) -> None:
        if self._launched is not None:
            raise Refused("launch was asked before")
        if args.stop_at not in _STOP_AT:
            known = ", ".join(_STOP_AT)
            raise ArgumentsError(f"arguments.stopAt: one of {known}, not {args.stop_at!r}")
        self._launched = args
        try:
            path = recording_of(args, self._folder, self._tell, self._given_up)
            assert self._initialized is not None
            with self._progress("Opening the recording") as progress:
                self._session = Session.opened(path, args, self._initialized, progress)
        except BaseException:
            self._launched = None
            raise
        damage = self.session.damage
        if damage:
            self._tell("important", f"{damage}\n")
        self._then.append(lambda: self._connection.event("initialized"))
        self._then.append(self._tell_process)

    def _tell_process(self) -> None:
        body = {"name": self.session.name, "isLocalProcess": True, "startMethod": "launch"}
        self._connection.event("process", body)

    def _given_up(self) -> bool:
        return self._leaving.is_set() or self._interrupting.is_set()

    def _attach(self, args: wanted.Nothing) -> None:
        raise Refused(
            "attach is not supported: a program is recorded first, then looked at; use launch with "
            '"program" or "recording"',
            show=True,
        )

    def _configuration_done(self, args: wanted.Nothing) -> None:
        if self._configured:
            raise Refused("configurationDone was asked before")
        self._configured = True
        assert self._launched is not None
        if self._launched.stop_on_entry:
            self._then.append(self._stopped_on_entry)
        else:
            self._then.append(lambda: self._go(_Move("continue")))

    def _stopped_on_entry(self) -> None:
        assert self._launched is not None
        stop = self.session.entry(self._launched.stop_at)
        self._connection.event("stopped", stop)

    def _terminate(self, args: wanted.Nothing) -> None:
        self._then.append(lambda: self._connection.event("terminated"))

    def _disconnect(self, args: wanted.Nothing) -> None:
        pass  # nothing lives on

    def _cancel(self, args: wanted.Cancel) -> None:
        self._interrupting.clear()  # the thread that reads has ended what there was to end

    # --- moving -------------------------------------------------------------------------------

    def _progress(self, title: str) -> Progress:
        self._work += 1
        told = self._initialized is not None and self._initialized.supports_progress_reporting
        return Progress(self._connection, title, self._work, wanted=told)

    def _will_move(self, how: How, backward: bool = False) -> None:
        """Move once it was answered."""
        if not self._configured:
            raise Refused("the program can move after configurationDone")
        self._then.append(lambda: self._go(_Move(how, backward)))

    def _continue(self, args: wanted.OfThread) -> Body:
        self._will_move("continue")
        return {"allThreadsContinued": True}

    def _reverse_continue(self, args: wanted.OfThread) -> None:
        self._will_move("continue", True)

    def _next_line(self, args: wanted.Step) -> None:
        self._will_move("nexti" if _by_insn(args) else "next")

    def _step_in(self, args: wanted.Step) -> None:
        self._will_move("stepi" if _by_insn(args) else "step")

    def _step_out(self, args: wanted.Step) -> None:
        self._will_move("finish")

    def _step_back(self, args: wanted.Step) -> None:
        self._will_move("nexti" if _by_insn(args) else "next", True)

    def _go(self, move: _Move) -> None:
        """Move, and tell where that ended."""
        session = self.session
        title = "Going back" if move.backward else "Going on"
        with self._run_lock:
            self._running = True
        self._moving.set()
        try:
            with self._progress(title) as progress:
                stop = session.move(
                    move.how, move.backward, progress, self._tell_lines, self._given_up
                )
        except PybpfvmError as error:
            stop = session.broken(str(error))
        finally:
            self._moving.clear()
        self._rests()
        if not self._leaving.is_set():
            self._connection.event("stopped", stop)

    def _pause(self, args: wanted.OfThread) -> None:
        self._interrupting.clear()

    # --- what the session answers -------------------------------------------------------------

    def _ask(self, args: Any) -> Body | None:
        return _ANSWERS[type(args)](self.session, args)

    def _threads(self, args: wanted.Nothing) -> Body:
        return {"threads": self.session.threads()}

    def _loaded_sources(self, args: wanted.Nothing) -> Body:
        return {"sources": self.session.loaded_sources()}

    def _exception_info(self, args: wanted.OfThread) -> Body:
        return self.session.exception_info()

    def _evaluate(self, args: wanted.Evaluate) -> Body:
        session = self.session
        if args.context != "repl" or not session.console.knows(args.expression):
            return session.inspection.evaluate(args)
        frame = session.inspection.frame_index(args.frame_id)
        self._moving.set()
        try:
            text, stop = session.command(args.expression, frame)
        finally:
            self._moving.clear()
            self._rests()
        if stop is not None:
            self._then.append(lambda: self._connection.event("stopped", stop))
        return {"result": text.rstrip("\n"), "variablesReference": 0}

    def _goto(self, args: wanted.Goto) -> None:
        stop = self.session.goto(args.target_id)
        self._then.append(lambda: self._connection.event("stopped", stop))


def _by_insn(args: wanted.Step) -> bool:
    """Whether the step is one of an instruction, not of a line."""
    return args.granularity == "instruction"


_ANSWERS: Mapping[type[Any], Callable[[Session, Any], Body]] = {
    wanted.SetBreakpoints: lambda session, args: session.breakpoints.set_lines(args),
    wanted.SetFunctionBreakpoints: lambda session, args: session.breakpoints.set_functions(args),
    wanted.SetInstructionBreakpoints: (
        lambda session, args: session.breakpoints.set_instructions(args)
    ),
    wanted.SetDataBreakpoints: lambda session, args: session.breakpoints.set_data(args),
    wanted.SetExceptionBreakpoints: lambda session, args: session.breakpoints.set_exceptions(args),
    wanted.DataBreakpointInfo: lambda session, args: session.data_breakpoint_info(args),
    wanted.BreakpointLocations: lambda session, args: session.breakpoints.locations(args),
    wanted.StackTrace: lambda session, args: session.inspection.stack_trace(args),
    wanted.OfFrame: lambda session, args: session.inspection.scopes(args),
    wanted.Variables: lambda session, args: session.inspection.variables(args),
    wanted.Completions: lambda session, args: session.completions(args),
    wanted.OfSource: lambda session, args: session.source(args),
    wanted.Disassemble: lambda session, args: session.code.disassemble(args),
    wanted.ReadMemory: lambda session, args: session.code.read_memory(args),
    wanted.GotoTargets: lambda session, args: session.code.goto_targets(args),
}
_Handler = Callable[[Adapter, Any], Body | None]
_REQUESTS: Mapping[str, tuple[type[Any], _Handler]] = {
    "initialize": (wanted.Initialize, Adapter._initialize),
    "launch": (wanted.Launch, Adapter._launch),
    "attach": (wanted.Nothing, Adapter._attach),
    "configurationDone": (wanted.Nothing, Adapter._configuration_done),
    "terminate": (wanted.Nothing, Adapter._terminate),
    "disconnect": (wanted.Nothing, Adapter._disconnect),
    "cancel": (wanted.Cancel, Adapter._cancel),
    "continue": (wanted.OfThread, Adapter._continue),
    "reverseContinue": (wanted.OfThread, Adapter._reverse_continue),
    "next": (wanted.Step, Adapter._next_line),
    "stepIn": (wanted.Step, Adapter._step_in),
    "stepOut": (wanted.Step, Adapter._step_out),
    "stepBack": (wanted.Step, Adapter._step_back),
    "pause": (wanted.OfThread, Adapter._pause),
    "goto": (wanted.Goto, Adapter._goto),
    "threads": (wanted.Nothing, Adapter._threads),
    "loadedSources": (wanted.Nothing, Adapter._loaded_sources),
    "exceptionInfo": (wanted.OfThread, Adapter._exception_info),
    "setBreakpoints": (wanted.SetBreakpoints, Adapter._ask),
    "setFunctionBreakpoints": (wanted.SetFunctionBreakpoints, Adapter._ask),
    "setInstructionBreakpoints": (wanted.SetInstructionBreakpoints, Adapter._ask),
    "setDataBreakpoints": (wanted.SetDataBreakpoints, Adapter._ask),
    "setExceptionBreakpoints": (wanted.SetExceptionBreakpoints, Adapter._ask),
    "dataBreakpointInfo": (wanted.DataBreakpointInfo, Adapter._ask),
    "breakpointLocations": (wanted.BreakpointLocations, Adapter._ask),
    "stackTrace": (wanted.StackTrace, Adapter._ask),
    "scopes": (wanted.OfFrame, Adapter._ask),
    "variables": (wanted.Variables, Adapter._ask),
    "evaluate": (wanted.Evaluate, Adapter._evaluate),
    "completions": (wanted.Completions, Adapter._ask),
    "source": (wanted.OfSource, Adapter._ask),
    "disassemble": (wanted.Disassemble, Adapter._ask),
    "readMemory": (wanted.ReadMemory, Adapter._ask),
    "gotoTargets": (wanted.GotoTargets, Adapter._ask),
}
_CHANGES = "a recording can not be changed: what the program did then is what is looked at"
# Why some requests of the protocol are refused.
_REASONS: Mapping[str, str] = {
    "setVariable": _CHANGES,
    "setExpression": _CHANGES,
    "writeMemory": _CHANGES,
    "restart": "launch again: only a recording can be looked at from its beginning",
    "restartFrame": "step back to where the function began",
    "terminateThreads": "a ring of a recording can not be ended",
}
