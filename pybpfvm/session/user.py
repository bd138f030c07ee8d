"""User memory: blocks that requests and programs' copy helpers can reach, by their true address."""

from __future__ import annotations

from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace, Region, RegionKind


class Block:
    """A block of user memory at `addr`, `size` bytes long. Freed with its machine, or by `free`."""

    def __init__(self, memory: AddressSpace, region: Region) -> None:
        self._memory = memory
        self._region = region

    def __repr__(self) -> str:
        return f"<Block {self._region.name} {self.size} bytes at {self.addr:#x}>"

    @property
    def addr(self) -> int:
        """Its address: what goes into an SQE, a user_data or a map."""
        return self._region.start

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._region.size

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """`size` bytes at `offset` (all that follow by default); InputError past the end."""
        length = self.size - offset if size is None else size
        self._check(offset, length)
        return self._memory.user_read(self.addr + offset, length)

    def write(self, data: bytes, offset: int = 0) -> None:
        """Put `data` at `offset`; InputError past the end."""
        self._check(offset, len(data))
        self._memory.user_write(self.addr + offset, data)

    def u64(self, offset: int = 0) -> int:
        """The little-endian 64-bit word at `offset`."""
        return int.from_bytes(self.read(8, offset), "little")

    def u32(self, offset: int = 0) -> int:
        """The little-endian 32-bit word at `offset`."""
        return int.from_bytes(self.read(4, offset), "little")

    def free(self) -> None:
        """Give the block back; a request that still names it gets -EFAULT.

        That holds for requests in flight too, on both backends. Its addresses are given out
        again only when all others have been (2 GiB in all): a request that outlives that would
        reach the block that lies there then, never memory that is not user memory.
        """
        self._check_alive()
        self._memory.free(self._region)

    def _check_alive(self) -> None:
        if self._memory.region_at(self.addr) is not self._region:
            what = "the machine is closed" if self._memory.closed else "the block was freed"
            raise InputError(what, where=self._region.name)

    def _check(self, offset: int, length: int) -> None:
        self._check_alive()
        if offset < 0 or length < 0 or offset + length > self.size:
            raise InputError(
                f"bytes {offset} to {offset + length} of a block of {self.size}",
                where=self._region.name,
            )


class UserMemory:
    """The user memory of a machine."""

    def __init__(self, memory: AddressSpace) -> None:
        self._memory = memory
        self._count = 0
        self._named: dict[str, Block] = {}

    def alloc(self, content: bytes | int, name: str = "", *, shared: bool = False) -> Block:
        """A block with this content, or that many zero bytes. `shared`: programs that are given it
        can access it by plain loads and stores, too (docs/abi-x.md)."""
        self._count += 1
        size = content if isinstance(content, int) else len(content)
        kind = RegionKind.SHARED if shared else RegionKind.USER
        region = self._memory.alloc(size, kind, name or f"user block {self._count}")
        block = Block(self._memory, region)
        if not isinstance(content, int):
            block.write(content)
        if name:
            self._named[name] = block
        return block

    def share(self, block: Block, name: str) -> None:
        """Let `named` know a block that lies elsewhere: one that programs can access, too."""
        self._named[name] = block

    def named(self, name: str) -> Block:
        """The block allocated under this name, the last of several. InputError for none."""
        if name not in self._named:
            known = ", ".join(self._named) or "none has a name"
            raise InputError(f"no block is called {name!r}", remedy=f"blocks: {known}")
        return self._named[name]
