"""Requests with symbols in place of numbers that only exist when a backend plays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pybpfvm.bits import U32, U64
from pybpfvm.uring_backend.abi import Sqe


@dataclass(frozen=True)
class At:
    offset: int


@dataclass(frozen=True)
class Fd:
    name: str


@dataclass(frozen=True)
class Wild:
    """ "null", "low", "program" memory, just past the "edge" of the block, the kernel's "half"."""

    kind: str


Value = int | At | Fd | Wild
Resolve = Callable[[Value], int]


_UNSIGNED = {"off": U64, "file_index": U32, "addr3": U64}


@dataclass(frozen=True)
class Spec:
    """An SQE with symbols. `fails`: how an EXTERNAL one ends. `opens`: its result is an Fd."""

    op: int
    token: int
    fields: dict[str, Value]
    fails: bool = False

    def pack(self, resolve: Resolve) -> bytes:
        """The SQE, with symbols resolved."""
        values = {name: resolve(value) for name, value in self.fields.items()}
        for name, bits in _UNSIGNED.items():  # descriptors may be -1
            if name in values:
                values[name] &= bits
        return Sqe(self.op, user_data=self.token, **values).pack()

    @property
    def flags(self) -> int:
        """Its SQE flags."""
        return self.flags_of("flags")

    def flags_of(self, name: str) -> int:
        """The SQE flags among these fields."""
        value = self.fields.get(name, 0)
        assert isinstance(value, int)
        return value
