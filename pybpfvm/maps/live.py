"""What all live maps share: a handle, the lengths of keys and values, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL, EPERM

from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.rules import ENOTSUPP
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_RDONLY, BPF_F_WRONLY, MapSpec, MapType

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2
BPF_F_LOCK = 4


class LiveMap:
    """A map in an AddressSpace; its operations are those of `BpfMap`, all refused here.

    A type overrides what it can do. `host_*` methods check the syscall side's permissions and
    then do what the kernel's command does; the others are the program's side, which the verifier
    has checked already.
    """

    def __init__(self, spec: MapSpec, memory: AddressSpace) -> None:
        self.spec = spec
        self.memory = memory
        self.handle = memory.handle(self)
        self._frozen = False

    def __str__(self) -> str:
        return f"map {self.spec.name}"

    @property
    def type(self) -> MapType:
        """The map's type, as one of the enum."""
        return MapType(self.spec.type)

    def lookup(self, key: bytes, cpu: int) -> int:
        """Address of the value, or 0."""
        return 0

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> None:
        """Refused: EINVAL."""
        raise MapError(EINVAL, f"{self}: {self.type.name} has no update")

    def delete(self, key: bytes) -> None:
        """Refused: EINVAL."""
        raise MapError(EINVAL, f"{self}: {self.type.name} has no delete")

    def host_lookup(self, key: bytes) -> bytes:
        """Refused: ENOTSUPP."""
        self.check_host_read()
        raise MapError(ENOTSUPP, f"{self}: {self.type.name} has no lookup from user space")

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Refused: ENOTSUPP; EINVAL for BPF_F_LOCK, which is looked at first."""
        self.check_host_write()
        self.check_no_lock(flags)
        raise MapError(ENOTSUPP, f"{self}: {self.type.name} has no update from user space")

    def host_delete(self, key: bytes) -> None:
        """Refused: ENOTSUPP."""
        self.check_host_write()
        raise MapError(ENOTSUPP, f"{self}: {self.type.name} has no delete from user space")

    def host_lookup_and_delete(self, key: bytes) -> bytes:
        """BPF_MAP_LOOKUP_AND_DELETE_ELEM. Refused: ENOTSUPP."""
        self.check_host_write()
        self.check_host_read()
        raise MapError(ENOTSUPP, f"{self}: {self.type.name} has no lookup-and-delete")

    def next_key(self, key: bytes | None) -> bytes:
        """Refused: ENOTSUPP."""
        self.check_host_read()
        raise MapError(ENOTSUPP, f"{self}: {self.type.name} has no keys to iterate over")

    def elements(self, cpu: int) -> Iterator[tuple[bytes, int]]:
        """(key, address of the value on `cpu`) for bpf_for_each_map_elem. Refused: EINVAL."""
        raise MapError(EINVAL, f"{self}: {self.type.name} can not be iterated by programs")

    def content(self) -> Iterator[bytes | memoryview]:
        """Everything that a program may find in the map, where it finds it, and what decides of
        later operations: for checksums."""
        yield from ()

    def freeze(self) -> None:
        """BPF_MAP_FREEZE: from now on host updates and deletes fail with EPERM.

        Raises MapError(EPERM) where the host may not write anyway, so also the second time.
        """
        self.check_host_write()
        self._frozen = True

    def state(self) -> MapState:
        """What the map is beside its bytes in memory: a type with more to say puts it behind."""
        return (self._frozen,)

    def restore(self, state: MapState) -> None:
        """Be again what `state` was taken of, memory being what it was then."""
        self._frozen = state[0]

    def accepts(self, state: MapState) -> bool:
        """Whether that can be its state: see BpfMap."""
        return len(state) == 1 and isinstance(state[0], bool)

    def check_host_read(self) -> None:
        """Raises MapError(EPERM) if the map is write-only for the host."""
        if self.spec.flags & BPF_F_WRONLY:
            raise MapError(EPERM, f"{self} is write-only (BPF_F_WRONLY)")

    def check_host_write(self) -> None:
        """Raises MapError(EPERM) if the map is read-only for the host, or frozen."""
        if self.spec.flags & BPF_F_RDONLY:
            raise MapError(EPERM, f"{self} is read-only (BPF_F_RDONLY)")
        if self._frozen:
            raise MapError(EPERM, f"{self} is frozen")

    def check_key(self, key: bytes) -> bytes:
        """The key; MapError(EINVAL) if its length is not key_size."""
        if len(key) != self.spec.key_size:
            size = self.spec.key_size
            raise MapError(EINVAL, f"{self}: a key of {len(key)} bytes, not {size}")
        return bytes(key)

    def check_value(self, value: bytes, size: int) -> bytes:
        """The value; MapError(EINVAL) if its length is not `size`."""
        if len(value) != size:
            raise MapError(EINVAL, f"{self}: a value of {len(value)} bytes, not {size}")
        return bytes(value)

    def check_no_lock(self, flags: int) -> None:
        """Raises MapError(EINVAL) for BPF_F_LOCK, as `check_flags` does among others."""
        if flags & BPF_F_LOCK:
            raise MapError(EINVAL, f"{self} has no spin lock (BPF_F_LOCK)")

    def check_flags(self, flags: int) -> int:
        """The update flags; MapError(EINVAL) unless BPF_ANY, BPF_NOEXIST or BPF_EXIST.

        BPF_F_LOCK is refused, too, also for values that have a spin lock.
        """
        if not BPF_ANY <= flags <= BPF_EXIST:
            raise MapError(EINVAL, f"{self}: update flags {flags:#x}")
        return flags
