"""A loaded object as its host sees it: programs by name, maps and globals as Python values."""

from __future__ import annotations

import errno as _errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from pybpfvm.btf.types import Btf, BtfKind
from pybpfvm.cfg import Cfg
from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Engine, RunEnvironment, trust_nobody
from pybpfvm.errors import InputError, UnsupportedError, errno_name
from pybpfvm.events import Observer
from pybpfvm.facts import program_facts
from pybpfvm.helpers.proto import Helper, RetType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.listing import Names, html_listing
from pybpfvm.maps.base import BpfMap, MapError
from pybpfvm.objectfile import abi_doubt, abi_unknown, global_variables
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect import Detection, ProgramFacts
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.profiles.ordinary import profile_of_section, unsupported_type
from pybpfvm.program import BpfObject, MapSpec, Program, StructOps
from pybpfvm.recording import NOTHING, Recorded, Recording
from pybpfvm.session.engines import chosen, make_engine
from pybpfvm.session.testrun import TestRun, run_program
from pybpfvm.session.values import Value, decode, encode
from pybpfvm.trace.records import Op
from pybpfvm.uring_backend.loop.attach import OpsMap

if TYPE_CHECKING:  # to run a program takes no verifier, and importing it takes longer than a run
    from pybpfvm.session.judging import JudgeRequest
    from pybpfvm.trace.recorder import Recorder
    from pybpfvm.verifier.usermemory.contract import Contract
    from pybpfvm.verifier.verdict import Verdict


class LoadedObject:
    """An object in a machine. `obj["name"]` is a program, `obj.maps["name"][key]` an element,
    `obj.globals["name"]` a global variable."""

    def __init__(
        self,
        image: Image,
        profile: Profile | None,
        detection: Detection,
        target: Btf | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.image = image
        self.recorder = recorder  # the machine's
        self.target = target  # what `load` was told to resolve CO-RE against
        self.detection = detection
        self._profile = profile
        self.maps = Maps(
            {name: MapView(live, image.object.btf, self) for name, live in image.maps.items()}
        )
        self.globals = Globals(self)
        self._verdicts: dict[tuple[str, bool], Verdict] = {}
        self._ops_maps: dict[str, OpsMap] = {}
        self._engine: Engine | None = None
        self._engine_is: tuple[str, Profile, Recording] | None = None

    def engine(
        self,
        environment: RunEnvironment,
        choice: str = "auto",
        record: Recording = NOTHING,
        program: str = "",
    ) -> Engine:
        """The engine for runs of `program` outside any ring, in this environment; it lives as the
        object, or until a program of another profile is run, or by another engine, or recorded
        otherwise."""
        profile = environment.profile or self.profile
        wanted = chosen(choice, self.image), profile, record
        if self._engine is None or self._engine_is != wanted:
            if self._engine is not None:
                self._engine.close()
            self._engine = self.make_engine(
                wanted[0], environment, profile, record=record, program=program
            )
            self._engine_is = wanted
        self._engine.environment = environment
        return self._engine

    def make_engine(
        self,
        choice: str,
        environment: RunEnvironment,
        profile: Profile,
        *,
        trusted: Callable[[Program], bool] = trust_nobody,
        record: Recording = NOTHING,
        ring: int = 0,
        program: str = "",
    ) -> Engine:
        """An engine of its own for programs of this profile: see `engines.make_engine`. While the
        machine is recorded its runs are, as those of the ring with this number; 0: outside any,
        those of `program`."""

        def make(around: RunEnvironment) -> Engine:
            helpers = helpers_of(profile)
            return make_engine(choice, self.image, helpers, around, trusted=trusted, record=record)

        if self.recorder is None:
            return make(environment)
        if self.recorder.active and choice == "ubpf":
            raise UnsupportedError(
                "recording what libubpf runs",
                where="engine",
                remedy="its frames lie elsewhere than other engines': record with jit or interp",
            )
        return self.recorder.engine(self.image, environment, make, ring=ring, program=program)

    @contextmanager
    def operation(
        self, live: BpfMap, op: Op, key: bytes = b"", value: bytes = b""
    ) -> Iterator[None]:
        """The host does this to a map: recordings tell."""
        if self.recorder is None:
            yield
            return
        with self.recorder.operation(self.image, live, op, key, value):
            yield

    @property
    def recorded(self) -> Recorded | None:
        """What the runs of its programs outside any ring left, since they are recorded as the
        last one was; None if that was not. See `pybpfvm.recording`."""
        return self._engine.recorded if self._engine is not None else None

    def __repr__(self) -> str:
        return f"<LoadedObject {self.object.path}: {', '.join(self.image.programs)}>"

    @property
    def object(self) -> BpfObject:
        """What the loader made of the file."""
        return self.image.object

    @property
    def profile(self) -> Profile:
        """The ABI; InputError when it is ambiguous or unknown."""
        if self._profile is None:
            raise abi_unknown(self.object, self.detection)
        return self._profile

    @property
    def known_profile(self) -> Profile | None:
        """The ABI, or None when it is ambiguous or unknown."""
        return self._profile

    @property
    def callbacks(self) -> tuple[str, ...]:
        """What can be attached to a ring: its structs of callbacks, or programs where the ABI has
        no such structs."""
        loop = None if self._profile is None else self._profile.loop
        return tuple(self.programs if loop is not None and not loop.of_structs else self.struct_ops)

    def ops_map(self, name: str) -> OpsMap:
        """The map that a struct of callbacks is loaded as."""
        return self._ops_maps.setdefault(name, OpsMap())

    @property
    def drives_ring(self) -> bool:
        """Whether its programs are for the loop of a ring; InputError when it is one of several."""
        candidates = self.detection.candidates
        if self._profile is None and candidates and all(one.loop for one in candidates):
            return self.profile.loop is not None
        return self._profile is not None and self._profile.loop is not None

    @property
    def abi_doubt(self) -> str:
        """Why the chosen ABI looks wrong for this object, "" when nothing speaks against it."""
        return "" if self._profile is None else abi_doubt(self.detection, self._profile)

    @property
    def programs(self) -> Mapping[str, LoadedProgram]:
        """All programs by name, in the object's order."""
        return {prog.name: LoadedProgram(self, prog) for prog in self.object.programs}

    @property
    def struct_ops(self) -> Mapping[str, StructOps]:
        """Its structs of callbacks by name."""
        return {variable.name: variable for variable in self.object.struct_ops}

    def __getitem__(self, name: str) -> LoadedProgram:
        if name not in self.image.programs:
            left_out = [line for line in self.object.unsupported if name in line]
            raise InputError(
                f"no program is called {name!r}",
                where=self.object.path,
                remedy=left_out[0] if left_out else f"programs: {', '.join(self.image.programs)}",
            )
        return LoadedProgram(self, self.object.program(name))


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program of a loaded object."""

    owner: LoadedObject
    program: Program

    @property
    def executable(self) -> Program:
        """The program as engines take it."""
        return self.owner.image.programs[self.program.name]

    @property
    def name(self) -> str:
        """Its function name."""
        return self.program.name

    @property
    def facts(self) -> ProgramFacts:
        """Its calls, context accesses and return values, as far as they are plain."""
        return program_facts(self.program)

    @property
    def cfg(self) -> Cfg:
        """Its control-flow graph; notebooks show it as a picture."""
        return Cfg(self.program, resolve=self._names())

    def _names(self) -> Names:
        # A listing needs no ABI: where it is ambiguous or unknown, helpers stay numbers.
        profile = self.owner.known_profile or profile_of_section(self.program.section)
        return Names(self.owner.object, self.program, profile)

    def _repr_html_(self) -> str:
        return html_listing(self.program, self._names())

    def helpers(self) -> Mapping[int, Helper]:
        """The helpers its ABI offers, by number."""
        return helpers_of(self.profile)

    @property
    def profile(self) -> Profile:
        """Its ABI: the object's, or that of its own section where the object mixes types.

        UnsupportedError for a program type that is not run, InputError when it is not known.
        """
        if self.owner.known_profile is not None:
            return self.owner.known_profile.for_section(self.program.section)
        own = profile_of_section(self.program.section)
        if own is not None:
            return own.for_section(self.program.section)
        kind = unsupported_type(self.program.section)
        if kind is not None and not self.owner.detection.candidates:
            raise UnsupportedError(
                f"programs of type {kind} (section {self.program.section})",
                where=f"{self.owner.object.path}: {self.name}",
            )
        return self.owner.profile

    def verify(
        self,
        request: JudgeRequest | None = None,
        *,
        contract: str | Mapping[str, Any] | None = None,
    ) -> Verdict:
        """The verifier's verdict by the rules of its profile; `request` says what else is wanted:
        its BTF is the one that the object was loaded with, unless it says another.
        `contract` is what docs/contracts.md describes, as text or as a table; InputError for one
        that contradicts the object."""
        from pybpfvm.session.judging import JudgeRequest, judge

        if request is None:
            request = JudgeRequest()
        if request.btf is None:
            request = replace(request, btf=self.owner.target)
        if contract is not None:
            from pybpfvm.verifier.usermemory.contract_parse import parse_contract

            request = replace(request, contract=parse_contract(contract, self.owner.object))
        return judge(self.program, self.owner.object, self.profile, request)

    def verdict(self, *, strict_ctx: bool = True, contract: Contract | None = None) -> Verdict:
        """As `verify` up to the first error; without a contract found once."""
        key = self.name, strict_ctx
        known = self.owner._verdicts.get(key) if contract is None else None
        if known is None:
            from pybpfvm.session.judging import JudgeRequest

            request = JudgeRequest(all_errors=False, strict_ctx=strict_ctx, contract=contract)
            known = self.verify(request)
            if contract is None:
                self.owner._verdicts[key] = known
        return known

    def run(
        self,
        ctx: bytes | None = None,
        data: bytes = b"",
        *,
        repeat: int = 1,
        budget_insns: int = DEFAULT_BUDGET_INSNS,
        observer: Observer | None = None,
        strict_ctx: bool = True,
        engine: str = "auto",
        record: Recording = NOTHING,
        after_each: Callable[[int], None] | None = None,
    ) -> TestRun:
        """Run once (or `repeat` times) outside any ring, like `bpftool prog run`.

        `ctx` is the context's bytes (zeros by default), `data` a packet, for the types that run on
        one: a whole Ethernet frame. `engine` is one of ENGINES. `record` is what runs leave in
        `owner.recorded`. `after_each` is told the instructions of each run when it has ended.
        Raises InputError for what the program's type can not be run with, and Trap.
        """
        profile = self.profile
        if not profile.runs:
            raise UnsupportedError(
                f"programs of type {profile.title} (section {self.program.section})",
                where=f"{self.owner.object.path}: {self.name}",
            )
        if profile.loop is not None:
            raise InputError(
                "the program drives a ring from inside an enter, and outside there is none",
                where=f"{self.owner.object.path}: {self.name}",
                remedy="attach it to a pybpfvm.LoopRing and let that enter",
            )
        start_ns = time.monotonic_ns()
        environment = RunEnvironment(
            profile=profile,
            strict_ctx=strict_ctx,
            now_ns=lambda: time.monotonic_ns() - start_ns,
            observer=observer,
        )
        return run_program(
            self.owner.engine(environment, engine, record, self.name),
            profile,
            self.executable,
            ctx,
            data,
            repeat=repeat,
            budget_insns=budget_insns,
            after_each=after_each,
        )


def helpers_of(profile: Profile) -> Mapping[int, Helper]:
    """The helpers of a profile by number, also those that this version does not have (without
    an implementation), and its kernel functions by the negative of their ids (see image).
    InputError when the table has no row for one of the others."""
    missing = sorted(set(profile.helpers.values()) - set(HELPERS))
    if missing:
        raise InputError(f"profile {profile.name} names unknown helpers: {', '.join(missing)}")
    helpers = dict(_without_implementation()) if profile.ring is None else {}
    helpers.update((number, HELPERS[name]) for number, name in profile.helpers.items())
    kernel = kernel_btf_of(profile)
    for name in profile.kfuncs:
        found = kernel.find(name, BtfKind.FUNC) if kernel is not None else None
        if found is not None:
            helpers[-found] = HELPERS[profile.row_of(name)]
    return helpers


@lru_cache(maxsize=1)
def _without_implementation() -> Mapping[int, Helper]:
    """Every helper of mainline, as if this version had none."""
    return {
        number: Helper(name, (), RetType.INTEGER, None, "Not in this version.")
        for number, name in MAINLINE_NAMES.items()
    }


class Maps(dict[str, "MapView"]):
    """The maps of an object by name; InputError, with the names there are, for any other."""

    def __missing__(self, name: str) -> MapView:
        raise InputError(f"no map is called {name!r}", remedy=f"maps: {', '.join(self) or 'none'}")


class MapView:
    """A map as a mapping of Python values (typed by BTF): `view[key]`, `view[key] = value`,
    `del view[key]`, `for key in view`. Refusals are KeyError (no such element) or InputError."""

    def __init__(self, live: BpfMap, btf: Btf | None, owner: LoadedObject) -> None:
        self.live = live
        self._owner = owner
        self._btf = btf
        self._order = owner.image.memory.byteorder

    @property
    def spec(self) -> MapSpec:
        """Its type and sizes."""
        return self.live.spec

    def has_kernel_fields(self) -> bool:
        """Whether its values hold something of the kernel's (locks, timers, ...), or may."""
        from pybpfvm.verifier.refusal import Refused
        from pybpfvm.verifier.resources.fields import fields_of

        try:
            return bool(fields_of(self._btf, self.spec))
        except Refused:
            return True

    def _key(self, key: Value) -> bytes:
        return encode(key, self.spec.key_size, self._btf, self.spec.btf_key_type_id, self._order)

    def __getitem__(self, key: Value) -> Value:
        try:
            data = self.live.host_lookup(self._key(key))
        except MapError as error:
            raise self._failure(error, key) from None
        return self._value(data)

    def _value(self, data: bytes) -> Value:
        size = self.spec.value_size
        if len(data) <= size or size == 0:
            return decode(data, self._btf, self.spec.btf_value_type_id, self._order)
        stride = (size + 7) & ~7  # per-CPU maps: one value per CPU
        return [
            decode(data[at : at + size], self._btf, self.spec.btf_value_type_id, self._order)
            for at in range(0, len(data), stride)
        ]

    def __setitem__(self, key: Value, value: Value) -> None:
        data = encode(
            value, self.spec.value_size, self._btf, self.spec.btf_value_type_id, self._order
        )
        raw = self._key(key)
        try:
            with self._owner.operation(self.live, Op.UPDATE, raw, data):
                self.live.host_update(raw, data)
        except MapError as error:
            raise self._failure(error, key) from None

    def __delitem__(self, key: Value) -> None:
        raw = self._key(key)
        try:
            with self._owner.operation(self.live, Op.DELETE, raw):
                self.live.host_delete(raw)
        except MapError as error:
            raise self._failure(error, key) from None

    def _failure(self, error: MapError, key: Value) -> KeyError | InputError:
        if error.errno == _errno.ENOENT:
            return KeyError(key)
        return InputError(
            f"{error.reason} (-{errno_name(error.errno)})", where=f"map {self.spec.name}"
        )

    def __iter__(self) -> Iterator[Value]:
        for key in self.raw_keys():
            yield decode(key, self._btf, self.spec.btf_key_type_id, self._order)

    def keys(self) -> Iterator[Value]:
        """All keys; with `__getitem__` this makes `dict(view)` work."""
        return iter(self)

    def raw_keys(self) -> Iterator[bytes]:
        """All keys as bytes; none for maps that can not be walked."""
        key: bytes | None = None
        for _ in range(self.spec.max_entries):
            try:
                key = self.live.next_key(key)
            except MapError:
                return
            yield key

    def items(self, most: int | None = None) -> Iterator[tuple[Value, Value]]:
        """All (key, value) pairs, or those of the first `most` keys."""
        for key in islice(self, most):
            try:
                yield key, self[key]
            except (KeyError, InputError):
                continue  # empty slots of map-in-map and program arrays


class Globals:
    """Global variables by their C names, through the object's BTF."""

    def __init__(self, owner: LoadedObject) -> None:
        self._owner = owner
        self._places: dict[str, tuple[str, int, int, int]] | None = None

    def __repr__(self) -> str:
        return f"<Globals {', '.join(self) or 'none'}>"

    def _find(self, name: str) -> tuple[str, int, int, int]:
        if self._places is None:
            self._places = dict(global_variables(self._owner.object))
        if name not in self._places:
            raise InputError(
                f"no global variable is called {name!r}",
                where=self._owner.object.path,
                remedy=f"known: {', '.join(self._places) or 'none (compile with -g)'}",
            )
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        if self._places is None:
            self._places = dict(global_variables(self._owner.object))
        return iter(self._places)

    def type_id(self, name: str) -> int:
        """The BTF type of a variable."""
        return self._find(name)[3]

    def __getitem__(self, name: str) -> Value:
        map_name, offset, size, type_id = self._find(name)
        live = self._owner.image.maps[map_name]
        data = live.host_lookup(bytes(live.spec.key_size))
        order = self._owner.image.memory.byteorder
        return decode(data[offset : offset + size], self._owner.object.btf, type_id, order)

    def __setitem__(self, name: str, value: Value) -> None:
        map_name, offset, size, type_id = self._find(name)
        live = self._owner.image.maps[map_name]
        key = bytes(live.spec.key_size)
        order = self._owner.image.memory.byteorder
        if live.spec.frozen:
            raise InputError(
                f"{name} is constant: it was frozen when the object was loaded",
                where=self._owner.object.path,
            )
        whole = bytearray(live.host_lookup(key))
        whole[offset : offset + size] = encode(value, size, self._owner.object.btf, type_id, order)
        try:
            with self._owner.operation(live, Op.UPDATE, key, bytes(whole)):
                live.host_update(key, bytes(whole))
        except MapError as error:
            raise InputError(error.reason, where=f"{name} in {map_name}") from None
