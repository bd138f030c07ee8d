"""Every name that a scenario uses is one that it defines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pybpfvm.errors import InputError
from pybpfvm.scenario.model import (
    AddressOf,
    Check,
    CloseFd,
    Connect,
    Content,
    Expect,
    FdKind,
    Field,
    Joined,
    PathOf,
    PeerEnd,
    PeerRecv,
    PeerSend,
    Ref,
    RefKind,
    Register,
    Scenario,
    Submit,
    Typed,
    Words,
    Write,
)
from pybpfvm.scenario.table import nearest


def check_names(scenario: Scenario) -> None:
    """Raises InputError for the first name that stands for nothing."""
    _Names(scenario).check()


class _Names:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.blocks: set[str] = set(scenario.blocks)
        self.fds: set[str] = set()
        self.peers: set[str] = set()
        for fd in scenario.fds:
            self._define(fd.name)
            if fd.kind is FdKind.PIPE:
                self._define(fd.target)
            elif fd.kind is FdKind.SOCKETPAIR:
                self.peers.add(fd.target)
        self.programs = {name for name in scenario.programs if name}
        for step in scenario.steps:
            if isinstance(step.action, Register):
                self.programs |= {name for name in step.action.programs if name}

    def _define(self, name: str) -> None:
        if name in self.fds or not name:
            self._fail(f"descriptor {name!r} is defined twice" if name else "an empty name", "fds")
        self.fds.add(name)

    def _fail(self, reason: str, place: str, remedy: str = "") -> None:
        where = place if ": " in place else f"{self.scenario.path}: {place}"
        raise InputError(reason, where=where, remedy=remedy)

    def _known(self, name: str, kind: str, known: Collection[str], place: str) -> None:
        if name not in known:
            self._fail(f"no {kind} is called {name!r}", place, nearest(name, known))

    def check(self) -> None:
        scenario = self.scenario
        for fd in scenario.fds:
            if fd.kind is FdKind.OPEN and not fd.target:
                self._fail("open needs the name of a file", f"fds.{fd.name}")
        for name in scenario.ring.files:
            if name is not None:
                self._known(name, "descriptor", self.fds, "ring.files")
        for name in scenario.ring.buffers:
            self._known(name, "block", self.blocks, "ring.buffers")
        for name, content in scenario.blocks.items():
            self._content(content, f"user.{name}")
        for name, content in scenario.files.items():
            self._content(content, f"files.{name}")
        for step in scenario.steps:
            self._step(step.action, step.where)
        self._expect(scenario.expect, "expect")

    def _step(self, action: object, place: str) -> None:
        match action:
            case Submit():
                for sqe in action.sqes:
                    for value in sqe.fields.values():
                        self._field(value, place)
            case Write():
                self._known(action.block, "block", self.blocks, place)
                self._content(action.content, place)
            case Connect():
                self._known(action.to, "descriptor", self.fds, place)
                self.peers.add(action.peer)
            case PeerSend() | PeerRecv():
                self._known(action.peer, "peer", self.peers, place)
                self._content(action.content, place)
            case PeerEnd():
                remedy_for_fd = action.close and action.peer in self.fds
                if remedy_for_fd:
                    self._fail(f"{action.peer!r} is no peer", place, 'add of = "fd"')
                self._known(action.peer, "peer", self.peers, place)
            case CloseFd():
                self._known(action.fd, "descriptor", self.fds, place)
            case Check():
                self._expect(action.expect, place)
            case _:
                pass

    def _content(self, content: Content, place: str) -> None:
        match content:
            case Words():
                for value in content.values:
                    self._field(value, place)
            case AddressOf():
                self._known(content.fd, "descriptor", self.fds, place)
            case Typed():
                self._field(content.fields, place)
            case Joined():
                for part in content.parts:
                    self._content(part, place)
            case PathOf() if not content.name:
                self._fail("path_of needs the name of a file", place)
            case _:
                pass

    def _field(self, value: Field, place: str) -> None:
        for ref in _references(value):
            known = {
                RefKind.BLOCK: self.blocks,
                RefKind.FD: self.fds,
                RefKind.PROG: self.programs,
            }[ref.kind]
            self._known(ref.name, _KIND_TEXT[ref.kind], known, place)

    def _expect(self, expect: Expect, place: str) -> None:
        for spec in expect.cqs:
            for cqe in spec.cqes:
                if cqe.user_data is not None:
                    self._field(cqe.user_data, place)
        for elements in expect.maps:
            for pair in elements.elements:
                self._field(pair, place)
        self._field(expect.globals, place)
        for memory in expect.memory:
            self._known(memory.name, "block", self.blocks, f"{place}.memory")
            self._content(memory.content, place)
        for file in expect.files:
            self._content(file.content, place)


_KIND_TEXT = {RefKind.BLOCK: "block", RefKind.FD: "descriptor", RefKind.PROG: "program"}


def _references(value: Field) -> Iterator[Ref]:
    match value:
        case Ref():
            yield value
        case tuple():
            for item in value:
                yield from _references(item)
        case Mapping():
            for item in value.values():
                yield from _references(item)
        case _:
            pass
