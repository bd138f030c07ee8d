"""QUEUE and STACK: values without keys, pushed and popped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from errno import E2BIG, EINVAL, ENOENT

from pybpfvm.errors import InputError
from pybpfvm.maps.base import MapError, MapState
from pybpfvm.maps.live import BPF_EXIST, BPF_NOEXIST, LiveMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import MapSpec, MapType


class QueueMap(LiveMap):
    """First in first out, or last in first out for STACK. Programs never point into it."""

    def __init__(self, spec: MapSpec, memory: AddressSpace) -> None:
        super().__init__(spec, memory)
        if spec.value_size * spec.max_entries > memory.limit_bytes:
            raise InputError(
                f"{spec.max_entries} values of {spec.value_size} bytes exceed the memory limit "
                f"of {memory.limit_bytes}",
                where=str(self),
                remedy="use a smaller map, or raise the limit",
            )
        self._lifo = spec.type == MapType.STACK
        self._values: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._values)

    def push(self, value: bytes, flags: int) -> None:
        """BPF_EXIST drops the oldest value of a full map; without it full is E2BIG.

        EINVAL for other flags.
        """
        self.check_value(value, self.spec.value_size)
        if self.check_flags(flags) == BPF_NOEXIST:
            raise MapError(EINVAL, f"{self}: BPF_NOEXIST means nothing to a queue or stack")
        if len(self._values) >= self.spec.max_entries:
            if flags != BPF_EXIST:
                raise MapError(E2BIG, f"{self} is full: {self.spec.max_entries} values")
            self._values.popleft()
        self._values.append(bytes(value))

    def peek(self) -> bytes:
        """The value that `pop` would take; ENOENT if there is none."""
        if not self._values:
            raise MapError(ENOENT, f"{self} is empty")
        return self._values[-1 if self._lifo else 0]

    def pop(self) -> bytes:
        """Take a value: the oldest of a queue, the newest of a stack; ENOENT if there is none."""
        value = self.peek()
        if self._lifo:
            self._values.pop()
        else:
            self._values.popleft()
        return value

    def host_lookup(self, key: bytes) -> bytes:
        """`peek`, with an empty key."""
        self.check_host_read()
        self.check_key(key)
        return self.peek()

    def host_update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """`push`, with an empty key."""
        self.check_host_write()
        self.check_key(key)
        self.push(value, flags)

    def host_delete(self, key: bytes) -> None:
        """EINVAL."""
        self.check_host_write()
        self.delete(self.check_key(key))

    def host_lookup_and_delete(self, key: bytes) -> bytes:
        """`pop`, with an empty key."""
        self.check_host_write()
        self.check_host_read()
        self.check_key(key)
        return self.pop()

    def content(self) -> Iterator[bytes | memoryview]:
        """As every map: see LiveMap."""
        yield from self._values

    def next_key(self, key: bytes | None) -> bytes:
        """EINVAL: there are no keys."""
        self.check_host_read()
        raise MapError(EINVAL, f"{self}: queues and stacks have no keys")

    def state(self) -> MapState:
        """With the values, oldest first."""
        return *super().state(), tuple(self._values)

    def restore(self, state: MapState) -> None:
        """Have the values again."""
        super().restore(state)
        self._values = deque(state[1])

    def accepts(self, state: MapState) -> bool:
        """Whether that many values fit, and are of its size."""
        frozen, values = state
        sized = all(isinstance(one, bytes) and len(one) == self.spec.value_size for one in values)
        return super().accepts((frozen,)) and len(values) <= self.spec.max_entries and sized
