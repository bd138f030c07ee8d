"""Laws of the contract, a module for each family of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.lawbench import Law
from pybpfvm.uring_backend.laws import (
    entries,
    events,
    filtering,
    messages,
    names,
    pipes,
    polled,
    registration,
    selecting,
    settings,
    sockets,
    waiting,
)

FAMILIES: Final[Sequence[Law]] = (
    *names.LAWS,
    *pipes.LAWS,
    *events.LAWS,
    *waiting.LAWS,
    *messages.LAWS,
    *registration.LAWS,
    *sockets.LAWS,
    *filtering.LAWS,
    *entries.LAWS,
    *polled.LAWS,
    *selecting.LAWS,
    *settings.LAWS,
)
