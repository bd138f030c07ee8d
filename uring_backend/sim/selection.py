"""What a request with IOSQE_BUFFER_SELECT selected, and what a group of buffers can do."""

from __future__ import annotations

from typing import Protocol


class Chosen:
    """What a request selected from a group: (id, address, length) of each buffer, in order.

    `emptied`: the group held no more; `partial`: the last buffer was longer than wanted. `held`:
    it is used up already, with CQE flags `flags`. `whole` is a provided buffer as it was.
    """

    __slots__ = (
        "buffers",
        "emptied",
        "flags",
        "group",
        "held",
        "partial",
        "taken",
        "used",
        "whole",
    )

    def __init__(
        self,
        group: Group,
        buffers: list[tuple[int, int, int]],
        *,
        emptied: bool = False,
        partial: bool = False,
        whole: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self.group = group
        self.buffers = buffers
        self.emptied = emptied
        self.partial = partial
        self.whole = whole
        self.held = False
        self.flags = 0

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(address, length) of the pieces."""
        return [(addr, length) for _, addr, length in self.buffers]


class Group(Protocol):
    """Buffers with a group id."""

    def choose_one(self, size: int) -> Chosen:
        """The next buffer, `size` bytes of it at most (0: all). Refused(ENOBUFS)."""

    def choose(self, size: int, most: int) -> Chosen:
        """The next buffers for `size` bytes (0: as many as there are), up to `most`. Refused."""

    def put_back(self, chosen: Chosen) -> None:
        """What was selected was not used after all."""

    def use(self, chosen: Chosen, size: int) -> int:
        """`size` bytes were transferred: CQE flags (F_BUF_MORE)."""

    @property
    def empty(self) -> bool:
        """Whether nothing can be selected."""
