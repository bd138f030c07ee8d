"""A target that needs nothing, for tests of campaigns."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path

import pybpfvm
from pybpfvm.fuzz.campaign import Recipe
from pybpfvm.fuzz.program_runs import ProgramTarget
from pybpfvm.fuzz.target import OneByOne, Problem, Tried, without_chunks

HELLO = Path(__file__).parents[2] / "examples/01_hello/prog.v3.bpf.o"


class Letters(OneByOne):
    """Covers the letters of an input; `x` twice in one is a bug."""

    name = "letters"
    known: Mapping[str, frozenset[str]] = {"letters": frozenset("abcx")}

    def __init__(self) -> None:
        self.notes = ["a note"]
        self.interrupt_at = -1
        self.runs = 0
        self.closed = False

    def fresh(self, seed: int) -> bytes:
        return b"ab" * (seed % 3) + b"cx"[seed % 2 :]

    def mutated(self, data: bytes, seed: int) -> bytes:
        return data + data[seed % max(len(data), 1) :]

    def run(self, data: bytes) -> Tried:
        self.runs += 1
        if self.runs == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        letters = frozenset(data.decode("latin-1"))
        twice = data.count(b"x") > 1
        return Tried(
            "twice" if twice else "fine",
            b"a" in data,
            frozenset(letters),
            {"letters": letters & self.known["letters"]},
            Problem("x/twice", "x is there twice") if twice else None,
        )

    def smaller(self, data: bytes) -> Iterator[bytes]:
        for start, end in without_chunks(len(data)):
            yield data[:start] + data[end:]

    def files(self, data: bytes) -> Mapping[str, bytes]:
        return {"letters.txt": data}

    def close(self) -> None:
        self.closed = True


class Alphabet(Letters):
    """Inputs of more kinds, so that what is found depends on the corpus: the third letter of a
    word comes only by changing one. A word with `kill` takes the process down, one with `hang`
    never ends; each input takes `slow` seconds.
    """

    name = "alphabet"
    shard_seeds = 64

    def __init__(self, *, kill: str = "-", hang: str = "-", slow: float = 0.0) -> None:
        super().__init__()
        self._kill, self._hang, self._slow = kill, hang, slow

    def fresh(self, seed: int) -> bytes:
        return bytes((97 + seed * 7 % 26, 97 + seed * 11 % 26))

    def mutated(self, data: bytes, seed: int) -> bytes:
        return (data + bytes((97 + seed * 3 % 26,)))[-6:]

    def run(self, data: bytes) -> Tried:
        time.sleep(self._slow)
        text = data.decode("latin-1")
        if self._kill in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        while self._hang in text:
            time.sleep(1.0)
        tried = super().run(data)
        pairs = frozenset(pairwise(text))
        letter = next((one for one in "qxz" if text.count(one) > 1), None)
        problem = None
        if letter is not None:
            problem = Problem(f"{letter}/twice", f"{letter} is there twice", text)
        return Tried("twice" if problem else "fine", tried.accepted, pairs, tried.hits, problem)


def hello() -> ProgramTarget:
    """The first example, on changed inputs."""
    return ProgramTarget(pybpfvm.load(HELLO, abi="iouring-v3"))


def recipe(**how: object) -> Recipe:
    """Alphabet, made anywhere."""
    return Recipe(partial(Alphabet, **how), dict(how))  # type: ignore[arg-type]
