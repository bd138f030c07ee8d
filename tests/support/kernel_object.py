"""A loaded object on the running kernel: its maps created, its programs loaded and test-run."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from pybpfvm import bpfsys
from pybpfvm.btf.write import write_btf
from pybpfvm.isa.codec import encode
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, MapSpec, MapType, Program

_PER_CPU = (MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)
_UNTYPED = (MapType.PROG_ARRAY,)


class Refused(Exception):
    """The kernel does not take a program; the text ends with the last lines of its log."""


class KernelObject:
    """Maps and programs as libbpf would make them from the same object. A context manager."""

    def __init__(self, obj: BpfObject) -> None:
        self.object = obj
        self._stack = ExitStack()
        self.btf = self._load_btf()
        self.maps = {spec.name: self._create(spec) for spec in obj.maps}
        self._programs: dict[str, bpfsys.Fd] = {}

    def _load_btf(self) -> bpfsys.Fd | None:
        if self.object.btf is None:
            return None
        loaded = bpfsys.btf_load(write_btf(self.object.btf), log_level=1)
        if loaded.fd is None:
            raise Refused(f"BTF of {self.object.path}: {loaded.log[-2000:]}")
        return self._stack.enter_context(loaded.fd)

    def _create(self, spec: MapSpec) -> bpfsys.Fd:
        fd = bpfsys.map_create(
            int(spec.type),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            flags=spec.flags,
            name=spec.name,
        )
        self._stack.enter_context(fd)
        if spec.data is not None:
            bpfsys.map_update_elem(fd, bytes(4), spec.data)
        if spec.frozen:
            bpfsys.map_freeze(fd)
        return fd

    def load(self, program: Program, profile: Profile) -> bpfsys.Fd:
        """The program's descriptor; Refused if the kernel does not take it."""
        if program.name in self._programs:
            return self._programs[program.name]
        func_info = b"".join(
            sub.start.to_bytes(4, "little") + sub.btf_type_id.to_bytes(4, "little")
            for sub in program.subprogs
        )
        fds: Sequence[int] = [self.maps[spec.name].fileno() for spec in self.object.maps]
        loaded = bpfsys.prog_load(
            encode(program.insns),
            prog_type=profile.prog_type,
            license=program.license,
            name=program.name,
            flags=bpfsys.BPF_F_SLEEPABLE if program.section == "syscall" else 0,
            map_fds=fds,
            btf_fd=self.btf.fileno() if self.btf is not None else 0,
            func_info=func_info if self.btf is not None else b"",
            log_level=1,
        )
        if loaded.fd is None:
            reason = "\n".join(loaded.log.splitlines()[-8:])
            raise Refused(f"{program.name}: {errno.errorcode.get(loaded.errno)}\n{reason}")
        self._programs[program.name] = self._stack.enter_context(loaded.fd)
        return loaded.fd

    def fill_program_arrays(self, profile: Profile) -> None:
        """Load the programs that the object puts into its program arrays, and put them there."""
        for spec in self.object.maps:
            if spec.type != MapType.PROG_ARRAY:
                continue
            for index, name in spec.slots.items():
                fd = self.load(self.object.program(name), profile)
                key, value = index.to_bytes(4, "little"), fd.fileno().to_bytes(4, "little")
                bpfsys.map_update_elem(self.maps[spec.name], key, value)

    def contents(self, spec: MapSpec) -> dict[bytes, bytes]:
        """All elements of a map, as the host reads them."""
        fd = self.maps[spec.name]
        size = bpfsys.map_value_bytes(spec.value_size, per_cpu=spec.type in _PER_CPU)
        return {key: bpfsys.map_lookup_elem(fd, key, size) for key in self._keys(fd, spec.key_size)}

    @staticmethod
    def _keys(fd: bpfsys.Fd, key_size: int) -> Iterator[bytes]:
        key: bytes | None = None
        while True:
            try:
                key = bpfsys.map_get_next_key(fd, key, key_size)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                return
            yield key

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()

    def __enter__(self) -> KernelObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
