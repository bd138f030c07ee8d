"""`fuzz loader`: damaged objects. What comes out is an object or one InputError of one line that
says where; what loads can be looked at as `info` and `disasm` do; neither takes long."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.fuzz.damaged import damage, use
from pybpfvm.fuzz.mutation import mutate
from pybpfvm.fuzz.target import OneByOne, Problem, Tried, without_chunks
from pybpfvm.loader import load

SECONDS_PER_OBJECT = 5.0
_MOST_GROWTH = 1 << 16
_EXAMPLES = Path(__file__).parents[1] / "examples"


class LoaderTarget(OneByOne):
    """Damaged copies of `objects`, the files of objects; those of the examples if there are
    none. `target_btf` is what CO-RE relocations are resolved against."""

    name = "loader"
    shard_seeds = 1024
    known: Mapping[str, frozenset[str]] = {}

    def __init__(self, objects: Sequence[bytes] = (), *, target_btf: Btf | None = None) -> None:
        self.notes: list[str] = []
        self._objects = list(objects) or [
            path.read_bytes() for path in sorted(_EXAMPLES.glob("*/*.bpf.o"))
        ]
        if not self._objects:
            raise InputError("no objects to damage", remedy="name one: fuzz loader OBJ")
        if any(len(one) < 64 for one in self._objects):
            raise InputError("an object of fewer than 64 bytes", where="loader")
        self._btf = target_btf

    def fresh(self, seed: int) -> bytes:
        return damage(Random(seed), self._objects)

    def mutated(self, data: bytes, seed: int) -> bytes:
        random = Random(f"mutated {seed}")
        if len(data) >= 64 and random.random() < 0.8:
            return damage(random, [data, *random.choices(self._objects, k=1)])
        return mutate(data, seed, len(data) + _MOST_GROWTH)

    def run(self, data: bytes) -> Tried:
        begun = time.process_time()
        try:
            obj = load(data, target_btf=self._btf or _no_btf, name="damaged.o")
            use(obj)
            seen = ("loaded", len(obj.programs), len(obj.maps), obj.btf is None, obj.big_endian)
            tried = Tried("loaded", True, frozenset({seen}))
        except InputError as error:
            text = str(error)
            if "\n" in text or not error.where:
                return Tried("bad refusal", False, problem=_badly_said(error))
            said = frozenset({(type(error).__name__, _nameless(error.reason), _place(error.where))})
            tried = Tried("refused", False, said)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.name}"
            message = f"loading ended with {type(error).__name__} in {place}: {error}"
            details = "".join(traceback.format_exception(error))
            bucket = f"crash/{type(error).__name__}/{place}"
            return Tried("crash", problem=Problem(bucket, message, details))
        seconds = time.process_time() - begun
        if seconds > SECONDS_PER_OBJECT:
            return Tried("slow", problem=Problem("slow", f"loading took {seconds:.1f} s", ""))
        return tried

    def smaller(self, data: bytes) -> Iterator[bytes]:
        for start, end in without_chunks(min(len(data), 1 << 12)):
            scale = max(1, len(data) >> 12)
            yield data[: start * scale] + bytes((end - start) * scale) + data[end * scale :]
            yield data[: start * scale] + data[end * scale :]

    def files(self, data: bytes) -> Mapping[str, bytes]:
        return {"damaged.o": data}


def _no_btf(_: str) -> Btf | None:
    return None


def _badly_said(error: InputError) -> Problem:
    what = "several lines" if "\n" in str(error) else "no place"
    return Problem(f"refusal/{what}", f"the refusal has {what}: {str(error)[:200]!r}", "")


def _nameless(text: str) -> str:
    """Without numbers and what is quoted."""
    return re.sub(r"'[^']*'|-?\b(0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", text)[:100]


def _place(where: str) -> str:
    """The section or table that a refusal names, without numbers."""
    return re.sub(r"[0-9a-fx]*\d[0-9a-f]*", "N", where.rpartition("damaged.o")[2])[:60]
