"""Copies from and to user memory as machine code, for verified programs outside ring loops."""

from __future__ import annotations

from collections.abc import Mapping

from pybpfvm.bits import U32, align_up
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import HelperImpl
from pybpfvm.helpers.table import HELPERS
from pybpfvm.jit.bytecode import Bytecode, assembled
from pybpfvm.jit.state import State
from pybpfvm.jit.thunks import Thunks
from pybpfvm.jit.unit import Unit
from pybpfvm.memory import AddressSpace, RegionKind
from pybpfvm.uring_backend.kernel.direct import Word
from pybpfvm.userblocks import TABLE_BYTES, UserBlocks

ENTRIES = ("from_user", "to_user")
# What user.s calls by number: the helper in Python, and its arguments with user address and size.
_PYTHON = {7: ("copy_from_user", 2, 1), 8: ("bpf_copy_to_user", 0, 2)}
_WORDS_BYTES = align_up(8 * (Word.BLOCKS + 1), 64)


def assembled_user() -> bytes:
    """The instructions of user.s as bytes."""
    return assembled(("user",), ENTRIES, {"BLOCKS": 8 * Word.BLOCKS})


class UserCopies:
    """Those of one engine; `entries` are their addresses by the names of ENTRIES."""

    def __init__(self, memory: AddressSpace, state: State, thunks: Thunks) -> None:
        self._memory = memory
        size = _WORDS_BYTES + TABLE_BYTES
        self._region = memory.alloc(size, RegionKind.HOST, "user memory as compiled code sees it")
        table = self._region.start + _WORDS_BYTES
        memory.write(self._region.start + 8 * Word.BLOCKS, table.to_bytes(8, "little"))
        self._blocks = UserBlocks(memory, memory.view(self._region)[_WORDS_BYTES:])
        self._blocks.follow = True
        self._blocks.refresh()
        callees = {number: (self._python(*row), 3) for number, row in _PYTHON.items()}
        self._code = Bytecode(
            "user", ENTRIES, state, thunks, words=self._region.start, callees=callees
        )
        self.unit: Unit = self._code.unit
        self.entries: Mapping[str, int] = self._code.entries

    def _python(self, name: str, user: int, size: int) -> HelperImpl:
        helper = HELPERS[name].impl
        assert helper is not None

        def call(context: HelperContext, *args: int) -> int:
            if not self._blocks.current and self._memory.is_user(args[user], args[size] & U32):
                self._blocks.refresh()  # the block may be new
            return helper(context, *args)

        return call

    def close(self) -> None:
        """Give everything back."""
        self._code.close()
        self._blocks.close()
        self._memory.free(self._region)
