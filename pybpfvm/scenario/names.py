"""Every name that a scenario uses is one that it defines, or one that its object has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from pybpfvm.btf.types import Array, Btf, BtfKind, Struct, Union
from pybpfvm.errors import InputError
from pybpfvm.program import MapType
from pybpfvm.scenario.model import (
    AddressOf,
    Attach,
    Check,
    CloseFd,
    Connect,
    Content,
    Detach,
    Enable,
    Enter,
    Expect,
    FdKind,
    Field,
    Joined,
    Later,
    NetworkChange,
    PathOf,
    PeerEnd,
    PeerRecv,
    PeerSend,
    Ref,
    RefKind,
    Register,
    RingPlan,
    RingSetup,
    Scenario,
    Signal,
    Submit,
    Typed,
    Unregister,
    Wait,
    Words,
    Write,
)
from pybpfvm.scenario.table import nearest
from pybpfvm.session import LoadedObject
from pybpfvm.uring_backend.faults import Faults, UserReaps, UserWrites
from pybpfvm.uring_backend.loop.memory import ring_layout
from pybpfvm.uring_backend.loop.setup import LoopSetup


def check_names(scenario: Scenario, obj: LoadedObject | None = None) -> None:
    """Raises InputError for the first name that stands for nothing.

    Names of programs, maps, globals, structs and fields are looked at when the object is known:
    only it tells whether the list of programs is wrong or who refers to it.
    """
    _Names(scenario, obj).check()


def no_variables(obj: LoadedObject) -> str:
    """A remedy where nobody knows a global variable of the object."""
    if obj.object.btf is None:
        return "the object tells of none: compile with -g"
    return "the object has none"


def structs_like(name: str, btf: Btf | None) -> str:
    """A remedy where the object has no struct `name`."""
    describe = "describe the block with u32, u64 and parts"
    if btf is None:
        return f"compile with -g, or {describe}"
    names = {btf.name(i) for i in btf.ids_of(BtfKind.STRUCT)} - {""}
    remedy = nearest(name, names)
    if remedy.startswith("did you mean"):
        return remedy
    kept = "clang keeps types of maps, globals and arguments of functions only"
    return f"{remedy}; {kept}: use the struct for one of these, or {describe}"


class _Names:
    def __init__(self, scenario: Scenario, obj: LoadedObject | None) -> None:
        self.scenario = scenario
        self.object = obj
        self.blocks: set[str] = set(scenario.blocks)
        self.fds: set[str] = set()
        self.peers: set[str] = set()
        for fd in scenario.fds:
            self._define(fd.name)
            if fd.kind is FdKind.PIPE:
                self._define(fd.target)
            elif fd.kind is FdKind.SOCKETPAIR:
                self.peers.add(fd.target)
        self.rings = scenario.plans
        self.programs = {name for plan in self.rings.values() for name in plan.programs if name}
        for step in scenario.steps:
            if isinstance(step.action, Register):
                self.programs |= {name for name in step.action.programs if name}
        self.runs = set(self.programs)
        if obj is not None:
            for variable in obj.struct_ops.values():
                self.runs |= set(variable.programs.values())
            self.runs |= set(obj.callbacks) & set(obj.programs)
            loop = obj.profile.loop
            if loop is not None and loop.operation is not None:
                self.programs |= set(obj.callbacks)

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
        if scenario.ring_name in scenario.rings:
            self._fail(
                f"two rings are called {scenario.ring_name!r}",
                f"rings.{scenario.ring_name}",
                "ring.name gives the first another name",
            )
        if len(scenario.rings) >= MAX_RINGS:
            self._fail(f"{1 + len(scenario.rings)} rings, {MAX_RINGS} at most", "rings")
        for place, plan in self._placed_plans():
            self._listed(plan.programs, f"{place}programs")
        if scenario.network is not None and (scenario.network.peer or scenario.network.reset):
            self._fail("nobody is connected yet", "network", "say it in a step")
        for step in scenario.steps:
            if isinstance(step.action, Register):
                self._listed(step.action.programs, f"{step.where}.register")
        for fd in scenario.fds:
            if fd.kind is FdKind.OPEN and not fd.target:
                self._fail("open needs the name of a file", f"fds.{fd.name}")
            if fd.kind is FdKind.RING:
                self._known(fd.target, "ring", self.rings, f"fds.{fd.name}.ring")
        for place, plan in self._placed_plans():
            self._setup(plan.setup, place or "ring.")
        mems = [plan.setup.mem for plan in self.rings.values() if plan.setup.mem is not None]
        for name in mems:
            if mems.count(name) > 1:
                self._fail(f"block {name!r} is the MEM region of two rings", "rings")
        for name, value in scenario.constants.items():
            if any(ref.kind is not RefKind.RING for ref in _references(value)):
                self._fail(
                    "of blocks, descriptors and programs nothing is known when an object is loaded",
                    f"constants.{name}",
                    "a global variable that is no constant can have it (globals)",
                )
            self._field(value, f"constants.{name}")
        for name, value in scenario.globals.items():
            self._field(value, f"globals.{name}")
        if self.object is not None:
            self._variables(scenario.globals, self.object, "globals")
            self._fits(self.object)
        for name, content in scenario.blocks.items():
            self._content(content, f"user.{name}")
        for name, content in scenario.files.items():
            self._content(content, f"files.{name}")
        for step in scenario.steps:
            if step.ring:
                self._known(step.ring, "ring", self.rings, f"{step.where}.ring")
            self._step(step.action, step.where, step.ring or scenario.ring_name)
        if scenario.faults is not None:
            self._faults(scenario.faults)
        self._expect(scenario.expect, "expect")

    def _placed_plans(self) -> Iterator[tuple[str, RingPlan]]:
        """Each ring with what its keys are behind: nothing for the first one."""
        for name, plan in self.rings.items():
            yield ("" if name == self.scenario.ring_name else f"rings.{name}."), plan

    def _faults(self, faults: Faults) -> None:
        """What the user side writes to and reaps from is there; a CQ, on one of the rings."""
        most = max(self.rings, key=lambda name: len(self.rings[name].setup.cq_entries))
        for fault in faults.plan:
            place = f"{self.scenario.path}: faults: {fault}"
            if isinstance(fault, UserWrites):
                self._known(fault.block, "block", self.blocks, place)
            elif isinstance(fault, UserReaps):
                self._cq(fault.cq, place, most)
        if faults.odds is None:
            return
        for index, name in enumerate(faults.odds.shared):
            self._known(name, "block", self.blocks, f"faults.shared[{index}]")
        for index, cq in enumerate(faults.odds.reaped):
            self._cq(cq, f"faults.reaped[{index}]", most)

    def _setup(self, setup: RingSetup, place: str) -> None:
        for name in setup.files:
            if name is not None:
                self._known(name, "descriptor", self.fds, f"{place}files")
        for name in setup.buffers:
            self._known(name, "block", self.blocks, f"{place}buffers")
        for index, group in enumerate(setup.buffer_rings):
            for name in (group.block, *group.buffers):
                self._known(name, "block", self.blocks, f"{place}buffer_rings[{index}]")
        if self.object is not None:
            memory = {*self.blocks, *self.object.maps}
            for name in setup.contexts:
                self._known(name, "block or map", memory, f"{place}contexts")
        if setup.mem is not None:
            self._known(setup.mem, "block", self.blocks, f"{place}mem")

    def _step(self, action: object, place: str, ring: str) -> None:
        match action:
            case Submit():
                for index, sqe in enumerate(action.sqes):
                    for value in sqe.fields.values():
                        self._field(value, f"{place}.submit[{index}]")
            case Wait():
                self._cq(action.cq, f"{place}.cq", ring)
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
            case NetworkChange():
                if action.peer is not None:
                    self._known(action.peer, "peer", self.peers, place)
            case CloseFd():
                self._known(action.fd, "descriptor", self.fds, place)
            case Later():
                self._step(action.action, place, ring)
            case Check():
                self._expect(action.expect, f"{place}.check")
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
                self._typed(content, place)
            case Joined():
                for index, part in enumerate(content.parts):
                    self._content(part, f"{place}.parts[{index}]")
            case PathOf() if not content.name:
                self._fail("path_of needs the name of a file", place)
            case _:
                pass

    def _field(self, value: Field, place: str) -> None:
        for ref in _references(value):
            if ref.kind is RefKind.PROG and self.object is None:
                continue
            known = {
                RefKind.BLOCK: self.blocks,
                RefKind.FD: self.fds,
                RefKind.PROG: self.programs,
                RefKind.RING: _RING_WORDS,
            }[ref.kind]
            self._known(ref.name, _KIND_TEXT[ref.kind], known, place)

    def _expect(self, expect: Expect, place: str, ring: str = "") -> None:
        ring = ring or self.scenario.ring_name
        for name, beside in expect.rings.items():
            self._known(name, "ring", self.rings, f"{place}.rings.{name}")
            self._expect(beside, f"{place}.rings.{name}", name)
        for cq in expect.counts:
            self._cq(cq, f"{place}.counts.{cq}", ring)
        for spec in expect.cqs:
            self._cq(spec.cq, f"{place}.cqes.{spec.cq}", ring)
            for cqe in spec.cqes:
                if cqe.user_data is not None:
                    self._field(cqe.user_data, place)
        for elements in expect.maps:
            for pair in elements.elements:
                self._field(pair, place)
        self._field(expect.globals, place)
        for memory in expect.memory:
            self._known(memory.name, "block", self.blocks, f"{place}.memory")
            self._content(memory.content, f"{place}.memory.{memory.name}")
        for file in expect.files:
            self._content(file.content, f"{place}.files.{file.name}")
        if self.object is not None:
            self._expect_of_object(expect, self.object, place)

    def _cq(self, cq: int, place: str, ring: str) -> None:
        if ring not in self.rings:
            return  # which is refused in its place
        count = 1 + len(self.rings[ring].setup.cq_entries)
        key = "ring" if ring == self.scenario.ring_name else f"rings.{ring}"
        if cq >= count:
            having = f"{count} CQs, 0 to {count - 1}" if count > 1 else "CQ 0 only"
            self._fail(
                f"CQ {cq} of a ring with {having}", place, f"{key}.cq_entries makes more of them"
            )

    # --- names that the object decides about ----------------------------------------------------

    def _listed(self, programs: Sequence[str | None], place: str) -> None:
        """Programs to be registered are programs of the object."""
        if self.object is None:
            return
        known = self.object.image.programs
        for index, name in enumerate(programs):
            if name is not None and name not in known:
                left_out = [line for line in self.object.object.unsupported if name in line]
                self._fail(
                    f"{self.object.object.path} has no program {name!r}",
                    f"{place}[{index}]",
                    left_out[0] if left_out else nearest(name, known),
                )

    def _expect_of_object(self, expect: Expect, obj: LoadedObject, place: str) -> None:
        for name in expect.runs:
            self._known(name, "registered program", self.runs, f"{place}.runs.{name}")
        for elements in expect.maps:
            where = f"{place}.maps.{elements.name}"
            self._known(elements.name, "map", obj.maps, where)
            spec = obj.maps[elements.name].spec
            for key, wanted in elements.elements:
                at = f"{where}[{key.decode() if isinstance(key, bytes) else key}]"
                if spec.type in _PER_CPU and isinstance(wanted, tuple):
                    for cpu, item in enumerate(wanted):
                        self._fields(item, spec.btf_value_type_id, f"{at}[{cpu}]")
                else:
                    self._fields(wanted, spec.btf_value_type_id, at)
        self._variables(expect.globals, obj, f"{place}.globals")

    def _variables(self, given: Mapping[str, Field], obj: LoadedObject, place: str) -> None:
        """Values are for global variables that there are, with fields that they have."""
        variables = list(obj.globals)
        for name, value in given.items():
            if name not in variables:
                self._fail(
                    f"no global variable is called {name!r}",
                    f"{place}.{name}",
                    nearest(name, variables) if variables else no_variables(obj),
                )
            self._fields(value, obj.globals.type_id(name), f"{place}.{name}")

    def _fits(self, obj: LoadedObject) -> None:
        """What is said is for rings of the object's ABI."""
        scenario, profile = self.scenario, obj.profile
        others: tuple[type[object], ...]
        if profile.loop is None:
            what, others = (
                "programs of a ring's loop",
                (Attach, Detach, Enter, Enable, Signal, Later),
            )
            said = [
                ("constants", any(map(_of_ring, scenario.constants.values()))),
                ("globals", any(map(_of_ring, scenario.globals.values()))),
            ]
            for place, plan in self._placed_plans():
                first = not place
                said += [
                    (f"{place}attach", plan.attach is not None if first else bool(plan.attach)),
                    (f"{place or 'ring.'}mem", plan.setup.mem is not None),
                ]
        else:
            what, others = "BPF requests", (Register, Unregister)
            said = [("contract", scenario.contract is not None)]
            for place, plan in self._placed_plans():
                said += [
                    (f"{place}programs", bool(plan.programs)),
                    (f"{place or 'ring.'}cq_entries", bool(plan.setup.cq_entries)),
                    (f"{place or 'ring.'}contexts", bool(plan.setup.contexts)),
                ]
            self._callbacks(obj)
        said += [(step.where, isinstance(step.action, others)) for step in scenario.steps]
        for place, wrong in said:
            if wrong:
                self._fail(f"that is for {what}, and these are of {profile.name}", place)

    def _callbacks(self, obj: LoadedObject) -> None:
        """Callbacks to be attached are callbacks of the object."""
        named = [
            (name, f"{place}attach")
            for place, plan in self._placed_plans()
            for name in plan.attach or ()
        ]
        for step in self.scenario.steps:
            action = step.action.action if isinstance(step.action, Later) else step.action
            if isinstance(action, Attach | Detach):
                named.append((action.callbacks, step.where))
        for name, place in named:
            self._known(name, "struct of callbacks", obj.callbacks, place)

    def _typed(self, content: Typed, place: str) -> None:
        if self.object is None:
            return
        btf = self.object.object.btf
        found = btf.find(content.struct, BtfKind.STRUCT) if btf is not None else None
        if btf is None or found is None:
            self._fail(
                f"the object's BTF has no struct {content.struct!r}",
                f"{place}.struct",
                structs_like(content.struct, btf),
            )
            return
        self._fields(content.fields, found, f"{place}.fields")

    def _fields(self, value: Field, type_id: int, place: str) -> None:
        """Fields that are given for a value of this type, and for what lies in it, are fields
        that its structs have."""
        btf = None if self.object is None else self.object.object.btf
        if btf is None or not type_id:
            return
        found = btf.type(btf.resolve(type_id))
        if isinstance(value, tuple) and isinstance(found, Array):
            for index, item in enumerate(value):
                self._fields(item, found.element_id, f"{place}[{index}]")
        if not isinstance(value, Mapping) or not isinstance(found, Struct | Union):
            return
        members = {
            member.name or f"anonymous_{index}": member
            for index, member in enumerate(found.members)
        }
        for name, item in value.items():
            if name not in members:
                self._fail(
                    f"struct {found.name} has no field {name!r}"
                    if found.name
                    else f"the struct has no field {name!r}",
                    f"{place}.{name}",
                    nearest(name, members),
                )
            self._fields(item, members[name].type_id, f"{place}.{name}")


MAX_RINGS = 16
_PER_CPU = frozenset({MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH})
_KIND_TEXT = {
    RefKind.BLOCK: "block",
    RefKind.FD: "descriptor",
    RefKind.PROG: "program",
    RefKind.RING: "number of the ring",
}
_RING_WORDS = (*ring_layout(LoopSetup(1, 1, 0)), "ring_fd")


def _of_ring(value: Field) -> bool:
    return any(ref.kind is RefKind.RING for ref in _references(value))


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
