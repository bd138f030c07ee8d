"""What a round of the soak does: scenarios and hosts of examples/, on either ring, on good days
and bad ones, with clients that do what clients should not."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from random import Random
from types import ModuleType
from typing import Any
from unittest.mock import patch

from pybpfvm.errors import RingHang, Trap
from pybpfvm.examples.clients import Client
from pybpfvm.scenario import Scenario, parse, run_scenario
from pybpfvm.session.hostring import BackendName
from pybpfvm.session.machine import default_machine
from pybpfvm.uring_backend.base import Peer
from pybpfvm.uring_backend.conditions import Conditions
from tests.soak.rings import Stuck, Watch, watching
from tests.support.example_hosts import EXAMPLES, host_of

SCENARIOS = sorted(path.parent.name for path in EXAMPLES.glob("*/scenario.toml"))
SERVERS = ("20_accept_loop", "21_echo", "22_parser", "23_proxy")
HOSTS = sorted({path.parent.name for path in EXAMPLES.glob("*/*_host.py")} - {*SERVERS})
_MASS = "07_batch_writer"  # a hundred thousand writes: for compiled code on the kernel's ring
_PATIENCE_S = 1.0  # of clients on a bad day, in place of a minute
_DRIBBLE = 3  # bytes


@dataclass(frozen=True)
class Job:
    """One run. `bad`: with faults and a slow network, in `sim`. `observed`: every event is looked
    at; without, compiled code loops over the kernel's ring by itself. `judged`: programs are
    verified though they were before, which takes most of the time of a short run."""

    kind: str  # scenario, host, server
    topic: str
    backend: BackendName
    version: str = "v3"
    engine: str = "auto"
    observed: bool = True
    bad: bool = False
    judged: bool = True
    clients: int = 0
    seed: int = 0

    def __str__(self) -> str:
        notes = ["observed"] * self.observed + ["faults"] * self.bad
        names = (self.kind, self.topic, self.backend, self.version, self.engine, *notes)
        return " ".join((*names, f"seed {self.seed}"))

    def watch(self) -> Watch:
        """How its rings are watched."""
        hosted = self.kind == "server"
        if not self.bad:
            return Watch(self.observed, seed=self.seed, hosted=hosted)
        random = Random(self.seed)
        slow = Conditions(
            latency_ns=random.choice((0, 20_000, 200_000)),
            jitter_ns=random.choice((0, 10_000)),
            loss=random.choice((0.0, 0.0, 0.05)),
        )
        return Watch(self.observed, "swarm", self.seed, slow, hosted)

    def run(self) -> Watch:
        """Do it; the watch has what was wrong."""
        watch = self.watch()
        act: Callable[[Job], list[str]] = _ACTS[self.kind]
        with watching(watch, judged=self.judged):
            wrong = act(self)
        # What failed comes before what that left behind.
        watch.wrong[:0] = wrong
        return watch


def jobs_of(seed: int, kernels: tuple[BackendName, ...]) -> list[Job]:
    """A round's jobs; `kernels` are the names under which there is a kernel's ring."""
    random = Random(seed)

    def some(kind: str, topic: str, backend: BackendName, *, bad: bool = False) -> Job:
        versions = versions_of(topic)
        return Job(
            kind,
            topic,
            backend,
            version=random.choice((*versions, versions[-1])),
            engine=random.choice(("auto", "auto", "auto", "interp")),
            observed=bad or random.random() < 0.5,
            bad=bad,
            judged=random.random() < 0.1,
            clients=random.randint(10, 60),
            seed=random.getrandbits(24),
        )

    light = [topic for topic in SCENARIOS if topic != _MASS]
    jobs = [some("scenario", topic, "sim", bad=True) for topic in random.sample(light, 8)]
    jobs += [some("scenario", topic, "sim") for topic in random.sample(light, 2)]
    jobs += [some("host", topic, "sim") for topic in random.sample(HOSTS, 1)]
    jobs += [some("server", topic, "sim", bad=True) for topic in random.sample(SERVERS, 2)]
    jobs += [some("server", random.choice(SERVERS), "sim")]
    if kernels:
        backends = random.choices(kernels, k=8)
        jobs += [some("scenario", random.choice(light), name) for name in backends[:4]]
        jobs += [some("host", random.choice(HOSTS), name) for name in backends[4:6]]
        jobs += [some("server", random.choice(SERVERS), name) for name in backends[6:]]
        if random.random() < 0.2:
            jobs.append(Job("scenario", _MASS, backends[0], observed=False))
    random.shuffle(jobs)
    return jobs


def each_once(kernels: tuple[BackendName, ...]) -> list[Job]:
    """Each thing once, by turns on the rings there are: what is made once is made then."""
    backends = cycle(("sim", *kernels))
    observed = cycle((True, True, False, False))
    return [
        Job(
            kind,
            topic,
            next(backends),
            version=versions_of(topic)[-1],
            observed=next(observed),
            clients=20,
        )
        for kind, topics in (("scenario", SCENARIOS), ("host", HOSTS), ("server", SERVERS))
        for topic in topics
        if (kind, topic) != ("scenario", _MASS)
    ]


# --- scenarios ------------------------------------------------------------------------------


@cache
def versions_of(topic: str) -> list[str]:
    """The ABIs that the example's program was compiled for; "" where its scenario names the ABI."""
    names = [path.name.split(".") for path in EXAMPLES.glob(f"{topic}/prog*.bpf.o")]
    return sorted(name[1] if len(name) > 3 else "" for name in names)


@cache
def _scenario(topic: str) -> Scenario:
    return parse(EXAMPLES / topic / "scenario.toml")


def _run_scenario(job: Job) -> list[str]:
    version = f".{job.version}" if job.version else ""
    outcome = run_scenario(
        _scenario(job.topic),
        backend=job.backend,
        seed=job.seed,
        object_path=EXAMPLES / job.topic / f"prog{version}.bpf.o",
        abi=f"iouring-{job.version}" if job.version else None,
        engine=job.engine,
    )
    if job.bad:  # what the program makes of faults is its own affair, unless it breaks
        stopped = outcome.stopped
        return [] if stopped is None or isinstance(stopped, RingHang) else [str(stopped)]
    found = [f"{finding}" for finding in outcome.findings]
    return found if outcome.stopped is None or outcome.expected_stop else [str(outcome.stopped)]


# --- hosts ----------------------------------------------------------------------------------


def _run_host(job: Job) -> list[str]:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            host_of(job.topic).main(job.backend, job.version or "loop-7.2")
    finally:
        default_machine().close()
    wanted = (EXAMPLES / job.topic / "host.out").read_text()
    return [] if out.getvalue() == wanted else [f"the host printed {out.getvalue()!r}"]


# --- servers and their clients ----------------------------------------------------------------


class Rogue(Client):
    """A client as they should not be, by its `manner`: "dribble" sends a few bytes at a time,
    "reset" resets the connection in the middle, "vanish" closes it there, "half" ends its side at
    once, says nothing, and stays for a while."""

    MANNERS = ("dribble", "reset", "vanish", "half")

    def __init__(self, plain: Client, manner: str, turns: int) -> None:
        super().__init__(plain.says, plain.wanted)
        self.manner, self._turns = manner, turns

    def turn(self) -> bool:
        peer = self._peer
        assert peer is not None
        self._turns -= 1
        if self.manner == "dribble":
            return self._dribble(peer)
        if self.manner == "half":
            peer.shutdown()
        elif self._sent < len(self.says):
            self._sent += peer.send(self.says[self._sent :])
        self.got += peer.recv(_DRIBBLE) or b""
        if self._turns > 0:
            return False
        peer.close(reset=self.manner == "reset")
        return True

    def _dribble(self, peer: Peer) -> bool:
        if self._sent < len(self.says):
            self._sent += peer.send(self.says[self._sent :][: max(_DRIBBLE, len(self.says) // 100)])
            if self._sent == len(self.says) and not self.wanted:
                peer.shutdown()
        data = peer.recv(65536)
        self.ended = data == b""
        self.got += data or b""
        if not (self.ended or (self.wanted and len(self.got) >= self.wanted)):
            return False
        peer.close()
        return True


def _heard(host: ModuleType, job: Job, number: int, client: Client) -> bytes:
    """All that a client of the server can hear."""
    match job.topic:
        case "20_accept_loop":
            return bytes(host.GREETING)
        case "21_echo":
            return client.says
        case "22_parser":
            return bytes(host.expected(number))
        case _:
            return client.says.upper()


def _run_server(job: Job) -> list[str]:
    random = Random(job.seed)
    host = host_of(job.topic)
    people: list[Client] = []
    patches = contextlib.ExitStack()
    if job.topic == "20_accept_loop":
        plain: Callable[..., Client] = host.Client
        name = "Client"
    else:
        plain, name = host.client, "client"

    def client(*args: Any, **options: Any) -> Client:
        made = plain(*args, **options)
        if not made.silent_turns and random.random() < 0.3:
            made = Rogue(made, random.choice(Rogue.MANNERS), random.randint(1, 20))
        people.append(made)
        return made

    given_up = ""
    with patches, contextlib.redirect_stdout(io.StringIO()):
        patches.enter_context(patch.object(host, name, client))
        if job.bad:
            patches.enter_context(patch("pybpfvm.examples.clients._PATIENCE_S", _PATIENCE_S))
        try:
            host.main(job.backend, job.version, job.clients, engine=job.engine)
        except (RingHang, TimeoutError, Stuck) as error:
            given_up = f"{error}"
        except Trap as trap:
            return [str(trap)]
    if given_up and not job.bad:
        return [f"the server hangs: {given_up}"]
    wrong = []
    for number, one in enumerate(people):
        wanted = _heard(host, job, number, one)
        rogue = isinstance(one, Rogue) and one.manner != "dribble"
        whole = not (job.bad or rogue or one.silent_turns) and one.says
        if one.got != wanted if whole else not wanted.startswith(one.got):
            manner = getattr(one, "manner", "usual")
            wrong.append(f"client {number} ({manner}) heard {one.got[:80]!r} of {wanted[:80]!r}")
    return wrong


_ACTS: dict[str, Callable[[Job], list[str]]] = {
    "scenario": _run_scenario,
    "host": _run_host,
    "server": _run_server,
}

__all__ = ["HOSTS", "Job", "SCENARIOS", "SERVERS", "each_once", "jobs_of"]
