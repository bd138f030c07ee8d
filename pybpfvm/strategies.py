"""Hypothesis strategies: programs, scenarios and requests, which shrink to few and small parts.

They need the extra `test`, which brings hypothesis; it is imported when this module is.

    from hypothesis import given
    from pybpfvm.strategies import programs
    from pybpfvm.verifier.verify import verify

    @given(programs("xdp"))
    def test_judging_ends(made):
        verify(made.program, made.object, made.profile)
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from pybpfvm.errors import InputError
from pybpfvm.fuzz.ring_sequences import Generator, Sequence, Step
from pybpfvm.fuzz.typed_programs import Generated, compose
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.scenario.model import Scenario
from pybpfvm.scenario.parse import parse_bytes

try:
    from hypothesis import strategies as st
except ImportError:
    raise InputError(
        "hypothesis is not installed",
        where="pybpfvm.strategies",
        remedy="pip install 'pybpfvm[test]'",
    ) from None

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

__all__ = ["programs", "ring_events", "scenarios"]

_MOST_STEPS = 7
_BELOW_ONE = 1 - 2**-53
_GOES_ON = st.integers(0, 9)  # 0: no other part
_T = TypeVar("_T")


class _Shrinking(Random):
    """Random numbers that hypothesis draws, so that they shrink: to the first of a choice, and
    away from what only happens with some probability."""

    def __init__(self, drawn: Random) -> None:
        super().__init__(0)
        self._drawn = drawn

    def random(self) -> float:
        return min(1.0 - self._drawn.random(), _BELOW_ONE)

    def getrandbits(self, k: int, /) -> int:
        return self._drawn.getrandbits(k)

    def randbytes(self, n: int) -> bytes:
        return self._drawn.getrandbits(8 * n).to_bytes(n, "little")

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return self._drawn.randrange(start, stop, step)

    def randint(self, a: int, b: int) -> int:
        return self._drawn.randint(a, b)

    def choice(self, seq: SupportsLenAndGetItem[_T]) -> _T:
        return self._drawn.choice(seq)

    def choices(
        self, population: Any, weights: Any = None, *, cum_weights: Any = None, k: int = 1
    ) -> list[Any]:
        if cum_weights is not None:
            return self._drawn.choices(population, cum_weights=cum_weights, k=k)
        return self._drawn.choices(population, weights, k=k)

    def shuffle(self, x: MutableSequence[Any]) -> None:
        self._drawn.shuffle(x)


def _random(draw: st.DrawFn) -> Random:
    return _Shrinking(draw(st.randoms(use_true_random=False)))


def _parts(draw: st.DrawFn, least: int, most: int) -> Iterator[Random]:
    """What decides each of some parts. All that a part draws comes before the next begins, so that
    it can go as a whole."""
    for number in range(most):
        if number >= least and draw(_GOES_ON) == 0:
            return
        yield _random(draw)


def programs(
    profile: str | Profile = "socket_filter", *, max_damages: int = 1, max_elements: int = 10
) -> st.SearchStrategy[Generated]:
    """Programs of a type, with the maps that they use: `program`, `object`, `profile`.

    They are made of up to `max_elements` elements (a look-up, a bounded access, a loop, ...), which
    shrink one by one, and damaged in up to `max_damages` places: with 0 nearly all are accepted,
    the more the more are refused. Raises InputError for a profile that there is not.
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise InputError(f"no profile is called {profile!r}", where="programs")
        profile = PROFILES[profile]
    if profile.ring is not None or profile.loop is not None:
        raise InputError(
            f"programs of {profile.title} are not generated",
            where="programs",
            remedy="give an ordinary program type, such as xdp",
        )
    chosen = profile

    @st.composite
    def composed(draw: st.DrawFn) -> Generated:
        damages = draw(st.integers(0, max_damages))
        made = compose(chosen, _random(draw), _parts(draw, 0, max_elements), damages)
        # Very rarely a jump of a damaged program is too far: it is the empty program then.
        return made or compose(chosen, Random(0), ()) or _never()

    return composed()


def _never() -> Generated:
    raise AssertionError("a program without elements can be encoded")


def ring_events(*, max_steps: int = _MOST_STEPS) -> st.SearchStrategy[Sequence]:
    """Sequences of host actions and submissions, in steps, for `pybpfvm.fuzz.ring_sequences`: what
    they finish with does not depend on who is faster. Steps shrink one by one."""

    @st.composite
    def composed(draw: st.DrawFn) -> Sequence:
        generator = Generator(draw(st.integers(0, 1 << 16)))
        steps: list[Step] = []
        for random in _parts(draw, 1, max_steps):
            generator.random = random
            steps.append(generator.step())
            if generator.drains:  # it may hold back all that would come behind it
                break
        return Sequence(
            generator.seed, generator.pokes, steps, generator.statx_at, generator.peer_at
        )

    return composed()


def scenarios(
    object_path: str | Path,
    program: str,
    *,
    abi: str,
    user_bytes: int = 64,
    max_requests: int = 6,
    cqs: int = 1,
) -> st.SearchStrategy[Scenario]:
    """Scenarios for `run_scenario` that run `program` of an object several times, among NOPs, on a
    ring with `cqs` extra CQs: its `user_data` leads to blocks of `user_bytes` bytes of any content.

    Nothing is expected of them: say what must hold of their outcome. Requests shrink one by one.
    """
    path = Path(object_path).resolve()

    @st.composite
    def composed(draw: st.DrawFn) -> Scenario:
        blocks = draw(
            st.lists(st.binary(min_size=user_bytes, max_size=user_bytes), min_size=1, max_size=3)
        )
        requests = draw(
            st.lists(st.integers(-1, len(blocks) - 1), min_size=1, max_size=max_requests)
        )
        lines = [
            f'object = "{path.name}"',
            f'abi = "{abi}"',
            f'programs = ["{program}"]',
            f"ring = {{ cq_entries = {[16] * cqs} }}",
            *(f'user.b{at} = {{ bytes = "{block.hex()}" }}' for at, block in enumerate(blocks)),
        ]
        for block in requests:
            request = '{ op = "nop" }'
            if block >= 0:
                request = f'{{ prog = "{program}", user_data = {{ block = "b{block}" }} }}'
            lines += ["[[steps]]", f"submit = [{request}]"]
            lines += ["[[steps]]", f'sleep = "{draw(st.integers(0, 5))} ms"']
        return parse_bytes("\n".join((*lines, "")).encode(), "generated.toml", path.parent)

    return composed()
