"""A pytest plugin: fixtures for objects and rings, and failures that say how to see them again.

`bpf_object(path, abi=...)` loads an object into a machine that the test has to itself, and
`bpf_ring(...)` makes a ring there; both are closed when the test has ended. Where such a test
fails, its report has a section "pybpfvm" with what the verifier says of the programs that it does
not accept, and the arguments that make the same ring again: its seed, its faults.

Nothing of pybpfvm is imported before a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pybpfvm.session import LoadedObject, Machine, Ring

_SECTION = "pybpfvm"
_used = pytest.StashKey["_Used"]()


class _Used:
    """What a test has of ours: a machine, and what it made there."""

    def __init__(self) -> None:
        from pybpfvm.session import Machine

        self.closing = ExitStack()
        self.machine: Machine = self.closing.enter_context(Machine())
        self.objects: list[LoadedObject] = []
        self.rings: list[str] = []

    def load(self, source: Any, **options: Any) -> LoadedObject:
        """As pybpfvm.load, into the machine of the test."""
        loaded = self.machine.load(source, **options)
        self.objects.append(loaded)
        return loaded

    def ring(self, entries: int = 8, cq_entries: Sequence[int] = (), **options: Any) -> Ring:
        """As pybpfvm.Ring, in the machine of the test; its seed is 0 unless one is given."""
        from pybpfvm.session import Ring

        options.setdefault("seed", 0)
        said = {**options, "cq_entries": cq_entries} if cq_entries else options
        shown = ", ".join((str(entries), *(f"{key}={said[key]!r}" for key in sorted(said))))
        self.rings.append(f"replay: bpf_ring({shown})")
        return self.closing.enter_context(
            Ring(entries, cq_entries, machine=self.machine, **options)
        )

    def told(self) -> Iterator[str]:
        """What a failure report adds."""
        yield from self.rings
        for loaded in self.objects:
            yield from _refusals(loaded)


def _refusals(loaded: LoadedObject) -> Iterator[str]:
    """What the verifier says of programs that it was asked about and does not accept."""
    from pybpfvm.verifier.verdict import Accepted, Inconclusive

    for (name, _), verdict in loaded._verdicts.items():
        if isinstance(verdict, Accepted):
            continue
        found = verdict.finding if isinstance(verdict, Inconclusive) else verdict.errors[0]
        where = f"{loaded.object.path}: {name}"
        place = f"instruction {found.pc}" + (f", {found.source}" if found.source else "")
        yield f"{where}: not accepted: {found.message}"
        yield f"  at {place} (rule {found.rule.value})"
        yield from (f"  {line}" for line in (found.reason, found.suggestion) if line)
        yield f"  explained by: pybpfvm explain {found.rule.value}"


def _of(request: pytest.FixtureRequest) -> _Used:
    node = request.node
    if _used not in node.stash:
        made = node.stash[_used] = _Used()
        request.addfinalizer(made.closing.close)
    used: _Used = node.stash[_used]
    return used


@pytest.fixture
def bpf_machine(request: pytest.FixtureRequest) -> Machine:
    """The machine that the objects and rings of this test share."""
    return _of(request).machine


@pytest.fixture
def bpf_object(request: pytest.FixtureRequest) -> Callable[..., LoadedObject]:
    """`bpf_object(path, abi=...)`: an object, as pybpfvm.load gives it."""
    return _of(request).load


@pytest.fixture
def bpf_ring(request: pytest.FixtureRequest) -> Callable[..., Ring]:
    """`bpf_ring(entries, cq_entries=..., seed=..., faults=...)`: a ring, as pybpfvm.Ring."""
    return _of(request).ring


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Add our section to the report of a failure."""
    report = yield
    if call.excinfo is not None and report.failed and (used := item.stash.get(_used, None)):
        lines = list(used.told())
        if lines:
            report.sections.append((_SECTION, "\n".join(lines)))
    return report
