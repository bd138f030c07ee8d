"""The shape that the running kernel gives a ring."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import replace

from pybpfvm.uring_backend import abi
from pybpfvm.uring_backend.kernel import sysring
from pybpfvm.uring_backend.loop.shape import RingShape

# struct io_uring_params: what is asked, then sq_off and cq_off without their last fields.
_HEAD = struct.Struct("<7I")
_SQ_AT, _CQ_AT = 40, 80
_SQ_NAMES = ("head", "tail", "ring_mask", "ring_entries", "flags", "dropped", "array")
_CQ_NAMES = ("head", "tail", "ring_mask", "ring_entries", "overflow", "cqes", "flags")


def measured(shape: RingShape) -> tuple[RingShape, str]:
    """The shape with the offsets that this kernel reports for such a ring, and who says so.

    SQ_REWIND is newer than most kernels, and moves nothing: one that does not know it is asked
    without. Where no ring can be made the shape is as it was.
    """
    for flags, source in (
        (shape.flags, "the running kernel"),
        (shape.flags & ~abi.SETUP_SQ_REWIND, "the running kernel, asked without sq_rewind"),
    ):
        params = ctypes.create_string_buffer(abi.SETUP_PARAMS_BYTES)
        asked = flags | abi.SETUP_CQSIZE
        _HEAD.pack_into(params, 0, 0, shape.cq_entries, asked, 0, 0, 0, 0)
        fd = sysring.setup(shape.sq_entries, ctypes.addressof(params))
        if fd < 0:
            continue
        os.close(fd)
        sq = struct.unpack_from("<7I", params, _SQ_AT)
        cq = struct.unpack_from("<7I", params, _CQ_AT)
        return (
            replace(
                shape,
                sq_off=dict(zip(_SQ_NAMES, sq, strict=True)),
                cq_off=dict(zip(_CQ_NAMES, cq, strict=True)),
            ),
            source,
        )
    return shape, "pybpfvm"
