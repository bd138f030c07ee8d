"""Requests that are not done."""

from __future__ import annotations


class Refused(Exception):
    """A request is not done, for the reason given; `show`: users are to see it."""

    def __init__(self, reason: str, *, show: bool = False) -> None:
        super().__init__(reason)
        self.show = show
