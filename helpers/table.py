"""The one list of helpers: `HELPERS` by name. Numbers are the profiles' business.

A new helper is a row in its family's module; a new family is a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from pybpfvm.helpers import (
    clock,
    control,
    events,
    ioloop,
    iouring,
    iterate,
    lock,
    map,
    netpath,
    packet,
    probe,
    ringbuf,
    socket,
    storage,
    system,
    text,
    tracing,
)
from pybpfvm.helpers.proto import Helper

_FAMILIES = (
    map.ROWS,
    clock.ROWS,
    system.ROWS,
    text.ROWS,
    probe.ROWS,
    ringbuf.ROWS,
    lock.ROWS,
    control.ROWS,
    packet.ROWS,
    iouring.ROWS,
    ioloop.ROWS,
    iterate.ROWS,
    socket.ROWS,
    netpath.ROWS,
    events.ROWS,
    tracing.ROWS,
    storage.ROWS,
)

HELPERS: Mapping[str, Helper] = {row.name: row for row in chain.from_iterable(_FAMILIES)}
