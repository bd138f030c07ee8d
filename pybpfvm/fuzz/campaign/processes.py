"""Processes of this machine do the shards, each one at a time. One that dies is replaced, and its
shard done again."""

from __future__ import annotations

import signal
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

from pybpfvm.errors import InputError, InternalError
from pybpfvm.fuzz.campaign.careful import death, retried
from pybpfvm.fuzz.campaign.recipe import Recipe
from pybpfvm.fuzz.campaign.shard import Performance, Result, Shard
from pybpfvm.fuzz.campaign.workers import Workers, Working
from pybpfvm.interrupts import released

MOST_DEATHS: Final = 20  # of all workers of a campaign
_TELL_SECONDS: Final = 0.25
_KILLED: Final = signal.SIGKILL.name
_context = get_context("spawn")  # a fork would take threads' locks and compiled code along


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    conn: Connection
    working: Working
    shard: Shard | None = None
    heard: float = 0.0  # when it last said something
    before: tuple[int, int] = (0, 0)  # executions and findings of earlier shards


class Processes(Workers):
    """`jobs` processes for the shards of what `recipe` makes."""

    def __init__(self, recipe: Recipe, jobs: int) -> None:
        self.jobs = self.slots = jobs
        self.notes: list[str] = []
        self.working = [Working(f"worker {number + 1}") for number in range(jobs)]
        self._recipe = recipe
        self._deaths = 0
        self._again: set[str] = set()  # shards that were given once more, as they were
        self._workers = [self._started(one) for one in self.working]
        try:
            for worker in self._workers:  # the time of a campaign begins when all are there
                self._heard(worker)
        except BaseException:
            self.close()
            raise

    def _started(self, working: Working) -> _Worker:
        ours, theirs = _context.Pipe()
        process = _context.Process(target=_serve, args=(theirs, self._recipe), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, working)

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [one.process.pid or 0 for one in self._workers]

    def submit(self, shard: Shard) -> None:
        number = next(at for at, one in enumerate(self._workers) if one.shard is None)
        worker = self._workers[number]
        try:
            worker.conn.send(shard)
        except OSError:  # it died while it had nothing to do
            worker = self._replaced(worker)
            worker.conn.send(shard)
        self._given(worker, shard)

    @staticmethod
    def _given(worker: _Worker, shard: Shard) -> None:
        worker.shard, worker.heard = shard, time.monotonic()
        worker.working.doing = shard.name.rpartition(" ")[0]
        worker.before = worker.working.executions, worker.working.findings

    def wait(self, seconds: float) -> list[Result]:
        busy = {one.conn: one for one in self._workers if one.shard is not None}
        found: list[Result] = []
        with released():
            ready = wait(list(busy), min(seconds, self._recipe.turn_seconds / 10))
        for conn in ready:
            assert isinstance(conn, Connection)
            result = self._heard(busy[conn])
            if result is not None:
                found.append(result)
        now = time.monotonic()
        for worker in busy.values():
            late = worker.shard is not None and now - worker.heard > self._recipe.turn_seconds
            if late and not worker.conn.poll():
                worker.process.kill()
                found += filter(None, [self._made_up_for(worker, "HANG")])
        return found

    def _heard(self, worker: _Worker) -> Result | None:
        """What a worker says: a result, or None for how far it is."""
        try:
            said = worker.conn.recv()
        except (EOFError, OSError):
            worker.process.join()
            how = death(worker.process.exitcode)
            if worker.shard is None and how == _KILLED:  # by somebody else, surely
                return self._heard(self._replaced(worker, how))
            if worker.shard is None:
                raise InternalError(f"a worker ended before it began: {how}") from None
            return self._made_up_for(worker, how)
        worker.heard = time.monotonic()
        if said is None:
            return None  # it is there
        if isinstance(said, str):
            raise InternalError(f"a worker failed: {said}")
        working, (executions, findings) = worker.working, worker.before
        if isinstance(said, Result):
            working.executions = executions + said.executions
            working.findings = findings + len(said.findings)
            working.shards += 1
            worker.shard = None
            return said
        more, covered, found = said
        working.executions, working.findings = executions + more, findings + found
        working.covered = covered
        return None

    def _made_up_for(self, worker: _Worker, how: str) -> Result | None:
        """The result of the shard with which a worker died; None if the next one has it."""
        shard = worker.shard
        assert shard is not None
        working = worker.working
        working.executions, working.findings = worker.before
        fresh = self._replaced(worker, how)
        worker.shard = None
        if how == _KILLED and shard.name not in self._again:  # by somebody else, surely
            self._again.add(shard.name)
            fresh.conn.send(shard)
            self._given(fresh, shard)
            return None
        result = retried(self._recipe, shard)
        working.executions += result.executions
        working.findings += len(result.findings)
        working.shards += 1
        return result

    def _replaced(self, worker: _Worker, how: str = "idle") -> _Worker:
        worker.process.join()
        worker.conn.close()
        self._deaths += 1
        doing = f", at {worker.shard.name}, which was done again" if worker.shard else ""
        self.notes.append(f"{worker.working.name} ended ({how}){doing}")
        if self._deaths > MOST_DEATHS:
            raise InputError(
                f"{self._deaths} worker processes died, the last with {how}",
                where="fuzz --jobs",
                remedy="look whether something ends them, such as a lack of memory",
            )
        fresh = self._started(worker.working)
        self._workers[self._workers.index(worker)] = fresh
        return fresh

    def stop(self) -> None:
        for worker in self._workers:
            if worker.shard is not None:
                with suppress(OSError):  # it died: `wait` will know
                    worker.conn.send(None)

    def abandon(self) -> None:
        for at, worker in enumerate(self._workers):
            if worker.shard is not None:
                worker.process.kill()
                worker.process.join()
                worker.conn.close()
                self._workers[at] = self._started(worker.working)

    def close(self) -> None:
        for worker in self._workers:
            worker.conn.close()  # which ends it, after its turn
        for worker in self._workers:
            worker.process.join(1.0 if worker.shard is None else 0.1)
            worker.process.kill()
            worker.process.join()


def _serve(conn: Connection, recipe: Recipe) -> None:
    """In a process of its own: do shards until nobody gives any. A message during one ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who waits for us has it
    try:
        target = recipe.make()
        conn.send(None)
        told = time.monotonic()

        def stop(now: Performance) -> bool:
            nonlocal told
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                conn.send((now.executions, len(now.features), len(now.findings)))
            if conn.poll():
                conn.recv()
                return True
            return False

        while True:
            shard = conn.recv()
            if shard is not None:
                conn.send(Performance(target, shard, stop).run())
    except (EOFError, OSError):
        return  # nobody is left to tell
    except Exception:
        conn.send(traceback.format_exc())
