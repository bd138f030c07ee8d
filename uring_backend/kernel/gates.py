"""Gates: what holds the chain of an external request back until the caller has performed it."""

from __future__ import annotations

import ctypes
import os

from pybpfvm.errors import InputError, errno_name


class Gate:
    """A pipe that a hidden READ of 2 bytes waits on, and the external requests that keep it shut.

    It opens when the last of them is finished: 2 bytes let the chain go on, 1 breaks it.
    """

    __slots__ = ("_buffer", "buffer_addr", "opened", "reader", "waits_for", "writer")

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self.writer = writer
        self.opened = False
        self.waits_for: set[int] = set()
        self._buffer = ctypes.create_string_buffer(2)
        self.buffer_addr = ctypes.addressof(self._buffer)

    def open(self, *, failed: bool) -> None:
        """Let the READ complete, in full or short."""
        self.opened = True
        os.write(self.writer, b"\0" if failed else b"\0\0")


class GatePool:
    """The gates of a backend; pipes are used again."""

    def __init__(self) -> None:
        self._all: set[Gate] = set()
        self._idle: list[Gate] = []

    def take(self, waits_for: set[int]) -> Gate:
        """A shut gate for the external requests with these tokens."""
        if self._idle:
            gate = self._idle.pop()
        else:
            try:
                gate = Gate(*os.pipe2(os.O_CLOEXEC))
            except OSError as error:
                raise InputError(
                    f"no pipe for a request that others wait for (-{errno_name(error.errno or 0)})",
                    remedy="raise the limit of open files (ulimit -n)",
                ) from error
            self._all.add(gate)
        gate.opened = False
        gate.waits_for = waits_for
        return gate

    def give(self, gate: Gate) -> None:
        """Nobody reads the gate any more; its pipe is empty."""
        gate.waits_for = set()
        self._idle.append(gate)

    def drop(self, gate: Gate) -> None:
        """Nobody reads the gate any more, and its pipe may hold bytes."""
        self._all.discard(gate)
        os.close(gate.reader)
        os.close(gate.writer)

    def waiting_for(self, token: int) -> list[Gate]:
        """The gates that the external request keeps shut."""
        return [gate for gate in self._all if token in gate.waits_for]

    def busy(self) -> bool:
        """Whether a hidden READ is in flight, or about to be."""
        return len(self._idle) < len(self._all)

    def close(self) -> None:
        """Give all pipes back."""
        for gate in list(self._all):
            self.drop(gate)
        self._idle.clear()
