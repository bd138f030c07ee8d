"""A shard that took its process down is done again in a process of its own, which writes down
each input before it tries it: so the one that does it is known, and left out the next time.

If it goes well now, something else ended that process, and its result is as good as any.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import tempfile
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final

from pybpfvm.fuzz.campaign.recipe import Recipe
from pybpfvm.fuzz.campaign.shard import Kind, Performance, Result, Shard
from pybpfvm.fuzz.corpus import MAX_INPUT_BYTES
from pybpfvm.fuzz.findings import Finding
from pybpfvm.fuzz.target import Problem

MOST_DEATHS: Final = 3  # of one shard: then its other seeds are given up
_HEAD = struct.Struct("<QQ")  # seed and length of what is tried
_BYTES = _HEAD.size + MAX_INPUT_BYTES
LOST = "lost"


def retried(recipe: Recipe, shard: Shard) -> Result:
    """The result of a shard that a worker did not survive. Inputs that take the process down, or
    never end, are findings in it."""
    deaths: list[Finding] = []
    while True:
        done = _attempt(recipe, shard)
        if isinstance(done, Result):
            break
        deaths.append(replace(done, executions=len(deaths) + 1))
        if shard.kind is not Kind.SEEDS or len(deaths) == MOST_DEATHS:
            done = Result(
                shard.name, shard.kind, shard.number, shard.first, shard.seeds, seconds=0.0
            )
            break
        shard = replace(shard, without=shard.without | {done.seed})
    if not deaths:
        return done
    buckets: dict[str, Finding] = {}
    for one in deaths:
        kept = buckets.get(one.problem.bucket)
        buckets[one.problem.bucket] = replace(kept, count=kept.count + 1) if kept else one
    outcomes = Counter(done.outcomes)
    outcomes[LOST] += len(deaths)
    findings = (*buckets.values(), *done.findings)
    executions = done.executions + len(deaths)
    return replace(done, outcomes=dict(outcomes), findings=findings, executions=executions)


def _attempt(recipe: Recipe, shard: Shard) -> Result | Finding:
    """The result, or what the process did not survive."""
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), _BYTES)
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        context = get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_perform, args=(theirs, recipe, shard, path), daemon=True)
        process.start()
        theirs.close()
        try:
            while ours.poll(recipe.turn_seconds):
                said = ours.recv()
                if isinstance(said, Result):
                    return said
            how = "HANG"
        except EOFError:
            process.join()
            how = death(process.exitcode)
        finally:
            ours.close()
            process.kill()
            process.join()
        with mmap.mmap(file.fileno(), _BYTES, access=mmap.ACCESS_READ) as last:
            seed, length = _HEAD.unpack_from(last)
            data = last[_HEAD.size : _HEAD.size + length]
    what = "never ends" if how == "HANG" else f"takes the process down: {how}"
    problem = Problem(f"{LOST}/{how}", f"the input {what}")
    return Finding(problem, data, data, seed, 0, 0.0)


def _perform(conn: Connection, recipe: Recipe, shard: Shard, path: str) -> None:
    """In a process of its own: do it, and say at each turn that it goes on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target = recipe.make()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), _BYTES) as last:

        def before(seed: int, data: bytes | bytearray) -> None:
            kept = data[:MAX_INPUT_BYTES]
            last[_HEAD.size : _HEAD.size + len(kept)] = bytes(kept)
            _HEAD.pack_into(last, 0, seed, len(kept))

        def stop(_: Performance) -> bool:
            conn.send(None)
            return False

        conn.send(Performance(target, shard, stop, before).run())


def death(code: int | None) -> str:
    """How a process ended, in a word: `SIGSEGV`, `exit-3`."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal-{-code}"
    return f"exit-{code}"
