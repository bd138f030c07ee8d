"""A loaded object on the running kernel: its maps created, its programs loaded, through bpf(2)."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from mmap import mmap

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf, Datasec, Func, FuncLinkage, Int, Var, VarLinkage
from pybpfvm.btf.write import write_btf
from pybpfvm.errors import InputError
from pybpfvm.isa.codec import encode
from pybpfvm.profiles.base import Profile, Sleepable
from pybpfvm.profiles.detect import matching_section
from pybpfvm.program import ARENA_PAGE_BYTES, BpfObject, MapSpec, MapType, Program, Replaced
from pybpfvm.session.attach_target import attach_target
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.resources.fields import fields_of

# Bytes that the maps of an object may take: what it declares is not ours to spend.
MAX_MAP_BYTES = 256 << 20

_OF_MAPS = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_INNER_ENTRIES = 1
# Types of maps that take no BTF, or whose values no program sees.
_UNTYPED = frozenset(
    {
        *_OF_MAPS,
        MapType.PROG_ARRAY,
        MapType.PERF_EVENT_ARRAY,
        MapType.STACK_TRACE,
        MapType.CGROUP_ARRAY,
        MapType.DEVMAP,
        MapType.DEVMAP_HASH,
        MapType.SOCKMAP,
        MapType.SOCKHASH,
        MapType.CPUMAP,
        MapType.XSKMAP,
        MapType.QUEUE,
        MapType.STACK,
        MapType.ARENA,
    }
)


class KernelObject:
    """Maps and programs as libbpf would make them from the same object. A context manager."""

    def __init__(self, obj: BpfObject) -> None:
        """Raises OSError for a map that the kernel does not make, InputError for maps too large, or
        with fields that the kernel does not learn of."""
        self.object = obj
        self._stack = ExitStack()
        wanted = sum(spec.max_entries * (spec.key_size + spec.value_size) for spec in obj.maps)
        if wanted > MAX_MAP_BYTES:
            raise InputError(
                f"its maps would take {wanted >> 20:,} MiB of the kernel's memory, more than "
                f"{MAX_MAP_BYTES >> 20}",
                where=obj.path,
            )
        with ExitStack() as on_error:
            on_error.callback(self._stack.close)
            self.btf = self._load_btf()
            self.maps = {spec.name: self._create(spec) for spec in obj.maps}
            on_error.pop_all()

    def _load_btf(self) -> bpfsys.Fd | None:
        """The object's BTF, None if it has none or the kernel does not take it."""
        if self.object.btf is None:
            return None
        try:
            loaded = bpfsys.btf_load(write_btf(without_externs(self.object.btf)))
        except InputError:
            return None
        return None if loaded.fd is None else self._stack.enter_context(loaded.fd)

    def _create(self, spec: MapSpec) -> bpfsys.Fd:
        if self.btf is None and _may_have_fields(self.object.btf, spec):
            raise InputError(
                f"it does not take the BTF that says which fields of map {spec.name!r} are its own",
                where=self.object.path,
            )
        inner = spec.inner or _some_inner(spec)
        inner_fd = 0 if inner is None else self._create(inner).fileno()
        # A map that the kernel refuses is not tried without its types: that would be another one,
        # whose values have no fields that are the kernel's.
        fd = self._made(spec, inner_fd, typed=spec.type not in _UNTYPED)
        self._stack.enter_context(fd)
        if spec.type == MapType.ARENA and not spec.map_extra:
            # A kernel lets programs use it once user space has a place for it.
            self._stack.enter_context(mmap(fd.fileno(), spec.max_entries * ARENA_PAGE_BYTES))
        if spec.data is not None:
            bpfsys.map_update_elem(fd, bytes(4), spec.data)
        if spec.frozen:
            bpfsys.map_freeze(fd)
        return fd

    def _made(self, spec: MapSpec, inner_fd: int, *, typed: bool) -> bpfsys.Fd:
        entries = spec.max_entries
        if spec.type == MapType.PERF_EVENT_ARRAY and not entries:
            entries = bpfsys.possible_cpus()
        key_id, value_id = spec.btf_key_type_id, spec.btf_value_type_id
        btf_fd = 0
        if typed and self.btf is not None and (key_id or value_id):
            btf_fd = self.btf.fileno()
        return bpfsys.map_create(
            int(spec.type),
            spec.key_size,
            spec.value_size,
            entries,
            flags=spec.flags,
            name=spec.name,
            inner_map_fd=inner_fd,
            btf_fd=btf_fd,
            btf_key_type_id=key_id if btf_fd else 0,
            btf_value_type_id=value_id if btf_fd else 0,
            map_extra=spec.map_extra,
        )

    def load(self, program: Program, profile: Profile, *, log_level: int = 0) -> bpfsys.LoadResult:
        """The kernel's answer to a program; whoever asks closes it. InputError if it does not take
        the program that this one replaces a function of."""
        if program.replaces is not None:
            return self._load_in_place(program, program.replaces, profile, log_level)
        attach_type, attach_id = profile.for_section(program.section).attach_type, 0
        if is_btf_typed(profile):
            attach_type, attach_id = attach_target(program.section)
        return self._load(program, profile, profile.prog_type, log_level, attach_type, attach_id)

    def _load_in_place(
        self, program: Program, replaced: Replaced, profile: Profile, log_level: int
    ) -> bpfsys.LoadResult:
        with (
            KernelObject(replaced.obj) as target,
            target.load(replaced.program, profile) as loaded,
        ):
            if loaded.fd is None:
                raise InputError(
                    f"the running kernel does not take {replaced.program.name}, a function of "
                    "which is replaced",
                    where=replaced.obj.path,
                )
            return self._load(
                program,
                profile,
                bpfsys.PROG_TYPE_EXT,
                log_level,
                attach_id=replaced.function.btf_type_id,
                attach_prog_fd=loaded.fd.fileno(),
            )

    def _load(
        self,
        program: Program,
        profile: Profile,
        prog_type: int,
        log_level: int,
        attach_type: int = 0,
        attach_id: int = 0,
        attach_prog_fd: int = 0,
    ) -> bpfsys.LoadResult:
        func_info = self._func_info(program)
        return bpfsys.prog_load(
            encode(program.insns, big_endian=program.big_endian),
            prog_type=prog_type,
            license=program.license,
            name=program.name,
            flags=bpfsys.BPF_F_SLEEPABLE if is_sleepable(program, profile) else 0,
            map_fds=[self.maps[spec.name].fileno() for spec in self.object.maps],
            btf_fd=self.btf.fileno() if self.btf is not None and func_info else 0,
            func_info=func_info,
            log_level=log_level,
            expected_attach_type=attach_type,
            attach_btf_id=attach_id,
            attach_prog_fd=attach_prog_fd,
        )

    def _func_info(self, program: Program) -> bytes:
        """Which function of the BTF each function of the program is; b"" unless all are known."""
        if self.btf is None or not all(sub.btf_type_id for sub in program.subprogs):
            return b""
        return b"".join(struct.pack("=II", sub.start, sub.btf_type_id) for sub in program.subprogs)

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()

    def __enter__(self) -> KernelObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_sleepable(program: Program, profile: Profile) -> bool:
    """Whether a program is loaded as sleepable: what its section says, or its profile demands."""
    section = matching_section(profile, program.section)
    return profile.sleepable is Sleepable.REQUIRED or (section is not None and section.sleepable)


def without_externs(btf: Btf) -> Btf:
    """The types without what the loader resolved: kernels take no extern functions or variables,
    nor sections of them. Nothing else refers to those; they become a number, so that ids stay."""
    externs = {
        type_id
        for type_id, found in btf
        if (isinstance(found, Func) and found.linkage is FuncLinkage.EXTERN)
        or (isinstance(found, Var) and found.linkage is VarLinkage.EXTERN)
    }
    sections = {
        type_id
        for type_id, found in btf
        if isinstance(found, Datasec) and any(var.type_id in externs for var in found.variables)
    }
    number = Int("extern", 4, 32)
    gone = externs | sections
    kept = [number if type_id in gone else found for type_id, found in btf]
    return Btf.of(kept, big_endian=btf.big_endian) if gone else btf


def _may_have_fields(btf: Btf | None, spec: MapSpec) -> bool:
    try:
        return bool(fields_of(btf, spec))
    except Refused:
        return True


def _some_inner(spec: MapSpec) -> MapSpec | None:
    """For a map of maps that says nothing of its inner maps, what the kernel wants to see."""
    if spec.type not in _OF_MAPS:
        return None
    return MapSpec("inner", MapType.ARRAY, 4, 4, _INNER_ENTRIES)
