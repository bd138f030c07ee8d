"""A cluster does the shards: machines that a Dask scheduler knows (extra `cluster`).

The scheduler gives the shard of a worker that is gone to another one. A shard that no worker
survives is done again on this machine, in a process of its own.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from contextlib import suppress
from typing import Any, Final

import distributed

from pybpfvm.errors import InputError, InternalError
from pybpfvm.fuzz.campaign.careful import retried
from pybpfvm.fuzz.campaign.recipe import Recipe
from pybpfvm.fuzz.campaign.shard import Performance, Result, Shard
from pybpfvm.fuzz.campaign.workers import Workers, Working
from pybpfvm.fuzz.target import Target
from pybpfvm.interrupts import released

_ADDRESS: Final = re.compile(r"(tcp|tls)://[^/\s]+:\d{1,5}")
_CONNECT_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 0.5  # between questions whether to stop
_MOST_LOST: Final = 3  # times that a shard is handed out anew


class Cluster(Workers):
    """The workers of the scheduler at `address`, such as `tcp://10.0.0.1:8786`; `about` is what
    they must make of the recipe too. Raises InputError where nobody answers."""

    def __init__(self, recipe: Recipe, address: str) -> None:
        self.notes: list[str] = []
        self.working: list[Working] = []
        self._recipe = recipe
        self._about = recipe.about()
        self._shards: dict[Any, Shard] = {}  # by future
        self._lost: dict[str, int] = {}  # by name of a shard
        self._name = f"pybpfvm-{uuid.uuid4().hex}"
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        _check(address)
        try:
            self._client = distributed.Client(
                address, timeout=_CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers: {(str(error) or repr(error)).splitlines()[0]}",
                where=f"--scheduler {address}",
                remedy="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
            ) from None
        self._stopped = distributed.Event(self._name, client=self._client)
        threads = self._client.nthreads()
        if not threads:
            self._client.close()
            raise InputError(
                "the Dask scheduler has no workers",
                where=f"--scheduler {address}",
                remedy="start some with `dask worker ADDRESS --nthreads 1`",
            )
        self.jobs = self.slots = sum(threads.values())

    def submit(self, shard: Shard) -> None:
        if not self._shards and self._stopped.is_set():
            self._stopped.clear()
        tries = self._lost.get(shard.name, 0)
        future = self._client.submit(
            _perform,
            self._recipe,
            self._about,
            shard,
            self._name,
            key=f"{self._name} {shard.name} {tries}",
            pure=False,
        )
        self._shards[future] = shard

    def wait(self, seconds: float) -> list[Result]:
        futures = list(self._shards)
        try:
            with released(), self._client.as_current():
                distributed.wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
        except TimeoutError:
            return []
        except distributed.CancelledError:
            pass
        found: list[Result] = []
        for future in futures:
            if future.status != "pending":
                shard = self._shards.pop(future)
                result = self._came(future, shard)
                if result is not None:
                    found.append(result)
        return found

    def _came(self, future: Any, shard: Shard) -> Result | None:
        """What a future that is done says; None if its shard was handed out anew."""
        if future.status == "finished":
            worker, result = future.result()
            self._count(worker, result)
            future.release()
            assert isinstance(result, Result)
            return result
        error = future.exception() if future.status == "error" else None
        if isinstance(error, distributed.KilledWorker):
            self.notes.append(f"workers of the cluster died at {shard.name}: done again here")
            return retried(self._recipe, shard)
        if isinstance(error, InputError):
            raise error
        if error is not None:
            raise InternalError(f"a worker failed: {type(error).__name__}: {error}")
        tries = self._lost[shard.name] = self._lost.get(shard.name, 0) + 1
        if tries > _MOST_LOST:
            raise InputError(
                f"the Dask scheduler loses {shard.name}", remedy="look whether it is still there"
            )
        self.notes.append(f"the scheduler lost {shard.name}: handed out anew")
        self.submit(shard)
        return None

    def _count(self, name: str, result: Result) -> None:
        working = next((one for one in self.working if one.name == name), None)
        if working is None:
            working = Working(name)
            self.working.append(working)
        working.doing = result.name.rpartition(" ")[0]
        working.shards += 1
        working.executions += result.executions
        working.findings += len(result.findings)

    def stop(self) -> None:
        self._stopped.set()

    def abandon(self) -> None:
        self._client.cancel(list(self._shards))
        self._shards.clear()

    def close(self) -> None:
        self._client.close()


def _check(address: str) -> None:
    """Raise InputError where no client can be made: one that fails keeps the process for long."""
    where = f"--scheduler {address}"
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            "no address of a Dask scheduler",
            where=where,
            remedy="as `dask scheduler` prints it: tcp://10.0.0.1:8786",
        )
    tls = distributed.Security().get_connection_args("client")
    if address.startswith("tls:") and not tls.get("ssl_context"):
        raise InputError(
            "no certificates for TLS",
            where=where,
            remedy="name them in Dask's configuration, as distributed.comm.tls",
        )


# The target of a worker's thread, and of which recipe it is.
_made = threading.local()


def _perform(recipe: Recipe, about: dict[str, Any], shard: Shard, event: str) -> tuple[str, Result]:
    """On a worker: the shard's result, and the worker's name."""
    target = _target(recipe, about)
    worker = distributed.get_worker()
    stopped = distributed.Event(event)
    asked = float("-inf")
    answer = False

    def stop(_: Performance) -> bool:
        nonlocal asked, answer
        if time.monotonic() - asked > _ASK_SECONDS:
            asked = time.monotonic()
            with suppress(OSError, RuntimeError):  # this worker is about to go
                answer = stopped.is_set()
        return answer

    return str(worker.name), Performance(target, shard, stop).run()


def _target(recipe: Recipe, about: dict[str, Any]) -> Target:
    kept: Target | None = getattr(_made, "target", None)
    if kept is not None and _made.about == about:
        return kept
    ours = recipe.about()
    for what in about:
        if ours[what] != about[what]:
            raise InputError(
                f"a worker of the cluster has other {what}",
                where=distributed.get_worker().name,
                remedy="give every machine the same pybpfvm, Python and files",
            )
    if kept is not None:
        kept.close()
    _made.target, _made.about = recipe.make(), about
    made: Target = _made.target
    return made
