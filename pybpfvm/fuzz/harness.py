"""Other fuzzers on our targets: libFuzzer's and atheris's way of calling, AFL++'s of mutating.

    python -m pybpfvm.fuzz.harness verifier CORPUS -runs=10000   atheris drives
    AFL_PYTHON_MODULE=pybpfvm.fuzz.harness afl-fuzz ...          AFL++ changes inputs as we do

A finding is an exception, so that whoever drives keeps the input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from pybpfvm.errors import InputError
from pybpfvm.fuzz.mutation import mutate
from pybpfvm.fuzz.target import Target

__all__ = ["Found", "custom_mutator", "fuzz", "init", "mutate", "one_input"]


class Found(Exception):
    """A problem that an input showed, as other fuzzers expect it."""


def one_input(target: Target) -> Callable[[bytes], None]:
    """What libFuzzer calls with each input: raises Found for one that shows a problem."""

    def test_one_input(data: bytes) -> None:
        problem = target.run(bytes(data)).problem
        if problem is not None:
            raise Found(f"{problem.bucket}: {problem.message}\n{problem.details}")

    return test_one_input


def custom_mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    """What libFuzzer calls to change an input, `(data, max_size, seed)`: inputs of the target stay
    what they are, programs or sequences; one that is too long is cut."""

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        return target.mutated(bytes(data), seed)[:max_size]

    return change


# AFL++'s interface of Python modules: https://aflplus.plus/docs/custom_mutators/
_afl_seed = 0


def init(seed: int) -> None:
    """Called by AFL++ once."""
    global _afl_seed
    _afl_seed = seed


def fuzz(buf: bytearray, add_buf: bytearray, max_size: int) -> bytearray:
    """Called by AFL++ for each input; the second one is not used."""
    global _afl_seed
    _afl_seed += 1
    return bytearray(mutate(bytes(buf), _afl_seed, max_size))


def target_named(name: str) -> Target:
    """A target as `pybpfvm fuzz NAME` has it. Raises InputError for another name."""
    if name == "verifier":
        from pybpfvm.fuzz.verifier import VerifierTarget

        return VerifierTarget()
    if name == "engine":
        from pybpfvm.fuzz.engine import EngineTarget

        return EngineTarget()
    if name == "loader":
        from pybpfvm.fuzz.loader import LoaderTarget

        return LoaderTarget()
    if name == "ring":
        from pybpfvm.fuzz.ring import RingTarget

        return RingTarget()
    raise InputError(f"no target is called {name!r}", remedy="verifier, engine, loader or ring")


def main(arguments: Sequence[str]) -> int:
    """Let atheris drive a target: its name, then what atheris takes."""
    if len(arguments) < 2:
        print("usage: python -m pybpfvm.fuzz.harness TARGET [CORPUS...] [-OPTION=VALUE...]")
        return 2
    if find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 3
    import atheris

    try:
        target = target_named(arguments[1])
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    atheris.Setup(
        [arguments[0], *arguments[2:]], one_input(target), custom_mutator=custom_mutator(target)
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
