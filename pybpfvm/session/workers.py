"""Judging many objects: in this process, or in several that share the programs out.

A worker reads an object when it is first given one of its programs. Whoever is idle gets the
next program of the object it has read, then one of an object that nobody has begun, then any.
The order of the results is that of the paths and programs, whoever was faster.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pybpfvm.errors import InputError
from pybpfvm.interrupts import released
from pybpfvm.session.judged import JudgedObject, JudgedProgram
from pybpfvm.session.object_judge import Assignment, ObjectJudge, unusable
from pybpfvm.verifier.verdict import Finding, Inconclusive, Kind, Rule, Statistics, cut_short

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

# How long workers have to say what they know after Ctrl-C, and to end.
_LAST_WORDS_SECONDS = 2.0

# Told (programs judged, programs known so far) after each program.
Progress = Callable[[int, int], None]


class WorkerFailed(Exception):
    """Something in a worker that is our bug; its traceback is a note."""


@dataclass(slots=True)
class _Object:
    """What is known of an object on the way. `names` of its programs are None until somebody has
    read it; those before `next` have been given out."""

    header: JudgedObject
    names: tuple[str, ...] | None = None
    next: int = 0
    programs: dict[int, JudgedProgram] = field(default_factory=dict)

    @property
    def left(self) -> bool:
        """Whether programs wait to be given out, as far as they are known."""
        return self.names is not None and self.next < len(self.names)

    def result(self) -> JudgedObject:
        """The object with the verdicts there are."""
        judged = self.names is not None and len(self.names) == len(self.programs)
        ordered = tuple(self.programs[index] for index in sorted(self.programs))
        cut = any(program.interrupted for program in ordered)
        complete = (judged and not cut) or bool(self.header.error)
        return replace(self.header, programs=ordered, complete=complete)


def judge_all(
    paths: Sequence[str],
    assignment: Assignment,
    *,
    jobs: int = 1,
    progress: Progress = lambda done, known: None,
) -> tuple[JudgedObject, ...]:
    """The objects with their verdicts, in order, judged by `jobs` processes.

    After Ctrl-C, what is known by then: the objects that are not `complete` were cut short, the
    programs in work are `interrupted`.
    """
    objects = [_Object(JudgedObject(path, assignment.request.kernel)) for path in paths]
    work = _Work(objects, assignment, progress)
    try:
        with released():
            if jobs == 1:
                work.alone()
            else:
                work.shared(jobs)
    except KeyboardInterrupt:
        pass
    return tuple(one.result() for one in objects)


@dataclass(slots=True)
class _Worker:
    """A process and the pipe to it; `task` is what it is at, `reading` the object it has read."""

    process: BaseProcess
    pipe: Connection
    task: tuple[int, int] | None = None
    reading: int = -1


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a worker says to a task: what it found when it read the object, and a verdict.
    `failure` is a traceback."""

    header: JudgedObject
    names: tuple[str, ...] = ()
    judged: JudgedProgram | None = None
    failure: str = ""


class _Work:
    """The objects, and who is at which of their programs."""

    def __init__(
        self, objects: Sequence[_Object], assignment: Assignment, progress: Progress
    ) -> None:
        self._objects = objects
        self._assignment = assignment
        self._progress = progress
        self._done = 0
        self._workers: list[_Worker] = []

    def alone(self) -> None:
        """Judge everything here."""
        for one in self._objects:
            readers: dict[str, ObjectJudge | JudgedObject] = {}
            while one.names is None or one.left:
                index, one.next = one.next, one.next + 1
                answer = _answer(readers, one.header.path, index, self._assignment)
                self._keep(one, index, answer)
                if answer.judged is not None and answer.judged.interrupted:
                    return

    def shared(self, jobs: int) -> None:
        """Judge everything by `jobs` processes."""
        # One process is enough for most: they do not wait for this.
        from multiprocessing.connection import Connection, wait

        try:
            self._workers = [self._started() for _ in range(jobs)]
            while True:
                for worker in self._workers:
                    if worker.task is None:
                        self._give(worker)
                busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    assert isinstance(pipe, Connection)
                    self._take(busy[pipe])
        except KeyboardInterrupt:
            self._hear_out()
        finally:
            for worker in self._workers:
                _end(worker)

    def _hear_out(self) -> None:
        """Interrupt those who are at work, and keep what they know by then."""
        from multiprocessing.connection import wait

        until = time.monotonic() + _LAST_WORDS_SECONDS
        busy = {id(worker.pipe): worker for worker in self._workers if worker.task is not None}
        for worker in busy.values():
            worker.process.terminate()
        while busy and (left := until - time.monotonic()) > 0:
            for pipe in wait([worker.pipe for worker in busy.values()], left):
                worker = busy.pop(id(pipe))
                self._last_words(worker, heard=True)
        for worker in busy.values():
            self._last_words(worker, heard=False)

    def _last_words(self, worker: _Worker, *, heard: bool) -> None:
        """Keep the answer of an interrupted worker: without one, its program has no verdict."""
        assert worker.task is not None
        number, index = worker.task
        one = self._objects[number]
        answer: _Answer | None = None
        if heard:
            with suppress(EOFError, OSError):
                answer = worker.pipe.recv()
        if answer is None and one.names is not None:
            unknown = cut_short(Statistics())
            judged = JudgedProgram(one.names[index], "", "", unknown, interrupted=True)
            answer = _Answer(one.header, one.names, judged)
        if answer is not None:
            self._keep(one, index, answer)

    def _started(self) -> _Worker:
        import multiprocessing

        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._assignment), daemon=True)
        # Until the process ignores Ctrl-C, it must not hear it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        there.close()
        return _Worker(process, here)

    def _give(self, worker: _Worker) -> None:
        """The next program for `worker`; nothing if none is left."""
        number = self._next(worker.reading)
        if number is None:
            return
        one = self._objects[number]
        worker.task, worker.reading = (number, one.next), number
        one.next += 1
        worker.pipe.send((one.header.path, worker.task[1]))

    def _next(self, reading: int) -> int | None:
        """The object whose next program is to be judged by a worker that has read `reading`."""
        if reading >= 0 and self._objects[reading].left:
            return reading
        numbers = range(len(self._objects))
        fresh = next((number for number in numbers if not self._objects[number].next), None)
        begun = (number for number in numbers if self._objects[number].left)
        return next(begun, None) if fresh is None else fresh

    def _take(self, worker: _Worker) -> None:
        assert worker.task is not None
        number, index = worker.task
        one = self._objects[number]
        worker.task = None
        try:
            answer = worker.pipe.recv()
        except EOFError:
            _end(worker)
            answer = _lost(one, index, worker.process.exitcode)
            self._workers[self._workers.index(worker)] = self._started()
        self._keep(one, index, answer)

    def _keep(self, one: _Object, index: int, answer: _Answer) -> None:
        if answer.failure:
            error = WorkerFailed(answer.failure.strip().rpartition("\n")[2])
            error.add_note(answer.failure)
            raise error
        if one.names is None:
            one.header, one.names = answer.header, answer.names
        if answer.judged is not None:
            one.programs[index] = answer.judged
            self._done += 1
            known = sum(len(other.names or ()) for other in self._objects)
            self._progress(self._done, known)


def _answer(
    readers: dict[str, ObjectJudge | JudgedObject], path: str, index: int, assignment: Assignment
) -> _Answer:
    """The answer to a task; `readers` keeps the object that was read last."""
    reader = readers.get(path)
    if reader is None:
        try:
            reader = ObjectJudge(path, assignment)
        except InputError as error:
            reader = unusable(path, assignment.request.kernel, error)
        readers.clear()
        readers[path] = reader
    if isinstance(reader, JudgedObject):
        return _Answer(reader)
    return _Answer(reader.header, reader.names, reader.judge(index))


def _serve(pipe: Connection, assignment: Assignment) -> None:
    """A worker's life. Ctrl-C is for the process that asks, which passes it on as SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _serve_all(pipe, assignment)
    except KeyboardInterrupt:
        return


def _serve_all(pipe: Connection, assignment: Assignment) -> None:
    """Answer until nobody asks any more."""
    readers: dict[str, ObjectJudge | JudgedObject] = {}
    while True:
        try:
            path, index = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = _answer(readers, path, index, assignment)
        except Exception:
            import traceback

            answer = _Answer(JudgedObject(path, ""), failure=traceback.format_exc())
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def _end(worker: _Worker) -> None:
    worker.process.terminate()
    worker.process.join(_LAST_WORDS_SECONDS)
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _lost(one: _Object, index: int, exit_code: int | None) -> _Answer:
    """What is said when a worker ended in the middle of a task."""
    ended = (
        f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"code {exit_code}"
    )
    why = f"the process that judged it ended with {ended}, perhaps for want of memory"
    if one.names is None:
        return _Answer(replace(one.header, error=f"{one.header.path}: {why}"))
    finding = Finding(Rule.BUDGET, Kind.LIMIT, 0, "no verdict", reason=why)
    verdict = Inconclusive(Statistics(), finding)
    return _Answer(one.header, one.names, JudgedProgram(one.names[index], "", "", verdict))
