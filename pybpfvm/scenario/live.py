"""A scenario brought to life on a ring: names become addresses, descriptors and slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property

from pybpfvm.btf.types import BtfKind
from pybpfvm.errors import InputError, PybpfvmError, RingError
from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.profiles.base import OperationRules
from pybpfvm.scenario.model import (
    AddressOf,
    BufferRing,
    Content,
    FdKind,
    FdSetup,
    Field,
    Fill,
    Joined,
    NetworkChange,
    Number,
    PathOf,
    Raw,
    Ref,
    RefKind,
    RingPlan,
    Scenario,
    SqeSpec,
    Typed,
    Words,
)
from pybpfvm.scenario.names import structs_like
from pybpfvm.scenario.table import nearest
from pybpfvm.session import Block, LoadedObject, LoopRing, Ring, cstring
from pybpfvm.session.hostring import HostRing
from pybpfvm.session.scope import LiveScope
from pybpfvm.session.values import Value, encode
from pybpfvm.uring_backend.abi import BUFFER_RING_ENTRY, BUFFER_RING_TAIL_AT, MAX_BUFFER_RING
from pybpfvm.uring_backend.base import Peer
from pybpfvm.uring_backend.conditions import port_of
from pybpfvm.uring_backend.counts import Counts
from pybpfvm.uring_backend.loop.attach import Link
from pybpfvm.uring_backend.trees import check_new, read_tree, write_tree


@contextmanager
def placed(scenario: Scenario, where: str) -> Iterator[None]:
    """Errors that do not say yet where in the scenario they arose say `where`."""
    try:
        yield
    except RingError as error:
        raise InputError(f"the ring refused: {error}", where=where) from None
    except InputError as error:
        if error.where.startswith(str(scenario.path)):
            raise
        raise error.inside(where) from None


class LiveRing:
    """A ring of a running scenario, and what is registered on it or attached to it."""

    def __init__(self, name: str, plan: RingPlan, ring: HostRing) -> None:
        self.name = name
        self.plan = plan
        self.ring = ring
        self.slots: dict[str, int] = {}
        self.links: dict[str, Link] = {}
        self.counts = Counts()  # before its queues are emptied at the end

    @property
    def cqs(self) -> range:
        """The numbers of its CQs."""
        return range(1 + len(self.plan.setup.cq_entries))

    @property
    def requests(self) -> Ring:
        """The ring, whose programs are BPF requests: what the scenario does fits it."""
        assert isinstance(self.ring, Ring)
        return self.ring

    @property
    def loop(self) -> LoopRing:
        """The ring, whose programs drive it: what the scenario does fits it."""
        assert isinstance(self.ring, LoopRing)
        return self.ring

    @property
    def operation(self) -> OperationRules | None:
        """How programs perform requests of the ring; None if they do not."""
        loop = self.ring.profile.loop
        return None if loop is None else loop.operation

    def slot(self, name: str) -> int:
        """The slot of a program; InputError if it is not registered."""
        if name not in self.slots:
            raise InputError(f"program {name!r} is not registered")
        return self.slots[name]

    def detach(self, name: str) -> None:
        """Take callbacks off the ring; InputError if they are not there."""
        if name not in self.links:
            raise InputError(f"{name!r} is not attached")
        self.links.pop(name).destroy()


class Live:
    """The rings, object, user blocks, descriptors and peers of a running scenario. `first` is the
    ring of which a scenario speaks that has no other."""

    def __init__(
        self, scenario: Scenario, rings: Mapping[str, HostRing], obj: LoadedObject
    ) -> None:
        self.scenario = scenario
        self.rings = {
            name: LiveRing(name, plan, rings[name]) for name, plan in scenario.plans.items()
        }
        self.first = self.rings[scenario.ring_name]
        self.ring = self.first.ring
        self.object = obj
        self.blocks: dict[str, Block] = {}
        self.fds: dict[str, int] = {}
        self.peers: dict[str, Peer] = {}
        self.stopped: PybpfvmError | None = None  # what ended the steps before their time
        self._start_ns = 0 if self.ring.backend.name == "sim" else None
        self._compiled: dict[str, Compiled] = {}
        self._set_up()
        for place, text in scenario.expressions():
            try:
                self.expression(text).check_condition()
            except ExpressionError as error:
                raise error.inside(place) from None

    @cached_property
    def scope(self) -> LiveScope:
        """What expressions see: of several rings, the first."""
        return LiveScope(self.object, {"ring": self.ring}, self.blocks)

    def expression(self, text: str) -> Compiled:
        """An expression of the scenario. Raises ExpressionError for a name that stands for
        nothing."""
        known = self._compiled.get(text)
        if known is None:
            known = self._compiled[text] = compile_expression(text, self.scope)
        return known

    def on(self, name: str) -> LiveRing:
        """The ring of that name; the first one for ""."""
        return self.rings[name] if name else self.first

    def name_of(self, addr: int) -> str | None:
        """`block+offset` for an address in a user block, None for any other."""
        for name, block in self.blocks.items():
            if block.addr <= addr < block.addr + block.size:
                offset = addr - block.addr
                return f"{name}+{offset}" if offset else name
        return None

    @property
    def start_ns(self) -> int:
        """When the ring's time begins, by the backend's clock: where that is a real one, with the
        first submit, so that loading and verifying are not counted. Now if that is to come."""
        return self.ring.now_ns() if self._start_ns is None else self._start_ns

    def starts(self) -> None:
        """Something is about to be submitted."""
        self._start_ns = self.start_ns

    def dump(self) -> None:
        """Write the files to the directory that the scenario names, if it does."""
        if self.scenario.dump is not None:
            with self._placed("dump"):
                write_tree(self.scenario.dump, self.ring.world.tree())

    def _set_up(self) -> None:
        scenario, ring = self.scenario, self.ring
        if scenario.dump is not None:
            with self._placed("dump"):
                check_new(scenario.dump)
        if scenario.network is not None:
            with self._placed("network"):
                self.change_network(scenario.network)
        if scenario.seed is not None:
            with self._placed("files.from"):
                ring.world.seed(read_tree(scenario.seed))
        for name, content in scenario.files.items():
            with self._placed(f"files.{name}"):
                ring.world.add_file(name, self.render(content))
        for fd in scenario.fds:
            with self._placed(f"fds.{fd.name}"):
                self._open(fd)
        region_of = {one.plan.setup.mem: one for one in self.rings.values()}
        for name, content in scenario.blocks.items():
            with self._placed(f"user.{name}"):
                size = self.size(content)
                if size == 0:
                    raise InputError("a block without bytes")
                if name in region_of:
                    self.blocks[name] = region_of[name].loop.register_mem(size, name)
                else:
                    rules = self.object.profile.ring
                    shared = rules is not None and rules.contexts
                    self.blocks[name] = ring.user.alloc(size, name, shared=shared)
        for name, content in scenario.blocks.items():
            if not isinstance(content, Fill) or content.byte:
                with self._placed(f"user.{name}"):
                    self.blocks[name].write(self.render(content))
        for one in self.rings.values():
            self._register_memory(one)
        for name, value in scenario.globals.items():
            with self._placed(f"globals.{name}"):
                self.object.globals[name] = self.value(value)

    def place(self, one: LiveRing, key: str = "") -> str:
        """Where a scenario says something of a ring's set-up."""
        where = "ring" if one is self.first else f"rings.{one.name}"
        return f"{where}.{key}" if key else where

    def _register_memory(self, one: LiveRing) -> None:
        """Files, buffers and contexts of a ring."""
        setup, ring = one.plan.setup, one.ring
        if setup.files:
            files = [-1 if name is None else self.fds[name] for name in setup.files]
            with self._placed(self.place(one, "files")):
                ring.register_files(files)
        if setup.buffers:
            blocks = [self.blocks[name] for name in setup.buffers]
            with self._placed(self.place(one, "buffers")):
                ring.register_buffers(blocks)
        for index, group in enumerate(setup.buffer_rings):
            with self._placed(self.place(one, f"buffer_rings[{index}]")):
                self._register_buffer_ring(ring, group)
        if setup.contexts:
            maps = self.object.maps
            memory = [self.blocks.get(name) or maps[name] for name in setup.contexts]
            with self._placed(self.place(one, "contexts")):
                one.requests.register_contexts(memory)

    def _register_buffer_ring(self, ring: HostRing, group: BufferRing) -> None:
        table, count = self.blocks[group.block], len(group.buffers)
        entries = table.size // BUFFER_RING_ENTRY.size
        if count > entries:
            raise InputError(f"{count} buffers, and {group.block!r} has {entries} entries")
        if count >= MAX_BUFFER_RING:
            raise InputError(f"{count} buffers, {MAX_BUFFER_RING - 1} at most")
        for number, name in enumerate(group.buffers):
            block = self.blocks[name]
            entry = BUFFER_RING_ENTRY.pack(block.addr, block.size, number)
            table.write(entry, number * BUFFER_RING_ENTRY.size)
        if count:
            table.write(count.to_bytes(2, "little"), BUFFER_RING_TAIL_AT)
        ring.register_buffer_ring(table, entries, group.group, incremental=group.incremental)

    def _placed(self, key: str) -> AbstractContextManager[None]:
        return placed(self.scenario, f"{self.scenario.path}: {key}")

    def _open(self, fd: FdSetup) -> None:
        world = self.ring.world
        match fd.kind:
            case FdKind.OPEN:
                try:
                    self.fds[fd.name] = world.open(fd.target, fd.flags, fd.mode)
                except InputError as error:
                    where = f"{self.scenario.path}: fds.{fd.name}.open"
                    raise InputError(
                        error.reason, where=where, remedy=self._files_like(fd.target)
                    ) from None
            case FdKind.LISTEN:
                self.fds[fd.name] = world.listen()
            case FdKind.SOCKET:
                self.fds[fd.name] = world.socket()
            case FdKind.DATAGRAMS:
                self.fds[fd.name] = world.datagrams()
            case FdKind.SOCKETPAIR:
                self.fds[fd.name], self.peers[fd.target] = world.socketpair()
            case FdKind.PIPE:
                self.fds[fd.name], self.fds[fd.target] = world.pipe()
            case FdKind.EVENTFD:
                self.fds[fd.name] = world.eventfd(fd.count)
            case FdKind.EPOLL:
                self.fds[fd.name] = world.epoll()
            case FdKind.RING:
                self.fds[fd.name] = self.ring.ring_fd(self.rings[fd.target].ring)

    def change_network(self, change: NetworkChange) -> None:
        """Set what the simulated network is like; InputError on the kernel's ring."""
        network = self.ring.world.network
        if network is None:
            raise InputError(
                "the kernel's loopback device has no conditions", remedy="run this on sim"
            )
        port = None if change.peer is None else port_of(self.peers[change.peer].address())
        if change.reset:
            network.reset(port)
        else:
            network.set(change.conditions, port)

    def _files_like(self, name: str) -> str:
        files = self.scenario.files
        if name in files:
            return ""
        return nearest(name, files) if files else 'no [files]: flags = ["creat"] would make one'

    def register(self, programs: Sequence[str | None], on: LiveRing) -> None:
        """Register programs by name; LoadRejected or RingError as the ring says."""
        on.requests.register_bpf(
            [None if name is None else self.object[name] for name in programs],
            contract=self.scenario.contract,
        )
        on.slots = {name: slot for slot, name in enumerate(programs) if name is not None}

    def attach(self, name: str, on: LiveRing) -> None:
        """Put callbacks onto the ring; LoadRejected or RingError as the ring says."""
        on.links[name] = on.loop.attach(self.object, name)
        if on.operation is not None:
            on.slots[name] = on.loop.operation_number(self.object, name)

    def number(self, value: Number, on: LiveRing | None = None) -> int:
        """What a number or name stands for now; a program, or a number of a ring's, on that ring
        (None: the first)."""
        if not isinstance(value, Ref):
            return value
        of = on or self.first
        match value.kind:
            case RefKind.BLOCK:
                found = self.blocks[value.name].addr
            case RefKind.FD:
                found = self.fds[value.name]
            case RefKind.PROG:
                found = of.slot(value.name)
            case RefKind.RING:
                found = of.loop.layout[value.name]
        return found + value.offset

    def value(self, field: Field) -> Value:
        """A field with its names resolved."""
        match field:
            case int() | Ref():
                return self.number(field)
            case bytes():
                return field
            case tuple():
                return [self.value(item) for item in field]
            case _:
                return {name: self.value(item) for name, item in field.items()}

    def size(self, content: Content) -> int:
        """Bytes that `render` will give, before the names in it mean anything."""
        match content:
            case Raw():
                return len(content.data)
            case Fill():
                return content.size
            case Words():
                return content.width * len(content.values)
            case Typed():
                return self._struct(content.struct)[1]
            case Joined():
                return sum(self.size(part) for part in content.parts)
            case _:
                return len(self.render(content))

    def render(self, content: Content) -> bytes:
        """Content as bytes, names resolved."""
        match content:
            case Raw():
                return content.data
            case Fill():
                return bytes([content.byte]) * content.size
            case Words():
                return b"".join(self._word(content.width, value) for value in content.values)
            case PathOf():
                return cstring(self.ring.world.path(content.name))
            case AddressOf():
                return self.ring.world.address(self.fds[content.fd])
            case Joined():
                return b"".join(self.render(part) for part in content.parts)
            case Typed():
                type_id, size = self._struct(content.struct)
                fields = self.value(content.fields)
                btf = self.object.object.btf
                order = self.object.image.memory.byteorder
                return encode(fields, size, btf, type_id, order)

    def _word(self, width: int, value: Number) -> bytes:
        number = self.number(value)
        if not -(1 << (8 * width - 1)) <= number < 1 << (8 * width):
            raise InputError(f"{value} is {number:#x}: more than {width} bytes")
        return (number % (1 << (8 * width))).to_bytes(width, "little")

    def _struct(self, name: str) -> tuple[int, int]:
        """Type id and size of a struct of the object."""
        btf = self.object.object.btf
        found = btf.find(name, BtfKind.STRUCT) if btf is not None else None
        if btf is None or found is None:
            raise InputError(
                f"the object's BTF has no struct {name!r}",
                where=self.scenario.path,
                remedy=structs_like(name, btf),
            )
        return found, btf.size(found)

    def fill_sqe(self, spec: SqeSpec, on: LiveRing) -> None:
        """Put an SQE into a ring's submission queue."""
        builder = on.ring.get_sqe()
        fields = {name: self.number(value, on) for name, value in spec.fields.items()}
        if spec.opcode is not None:
            builder.set(opcode=spec.opcode)
        elif on.operation is None:
            builder.prep_bpf(0)
        else:
            named = isinstance(spec.fields.get("off"), Ref)
            number = fields.pop("off") if named else 0
            builder.prep_operation(number, fields.pop("op_flags", 0) if named else 0)
        builder.set(cq_idx=spec.cq_idx or None, **fields)
