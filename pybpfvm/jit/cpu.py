"""What the processor and the system can do, as far as the JIT cares."""

from __future__ import annotations

import os
import struct
import sys


def _flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        line = ""
    return frozenset(line.partition(":")[2].split())


_known = _flags()
HAS_AVX = "avx" in _known
HAS_BMI2 = "bmi2" in _known


def unsupported() -> str | None:
    """Why the JIT can not run on this machine and interpreter, None if it can.

    Whether executable pages are allowed shows only when one is made.
    """
    machine = os.uname().machine if hasattr(os, "uname") else "no Unix"
    if machine != "x86_64" or struct.calcsize("P") != 8:
        return f"the JIT emits x86-64 code, this is {machine}"
    if sys.platform != "linux":
        return f"the JIT needs Linux, this is {sys.platform}"
    if sys.implementation.name != "cpython":
        return f"the JIT is entered through CPython's C API, this is {sys.implementation.name}"
    if "t" in sys.abiflags:
        return "the JIT relies on CPython's lock, this is a free-threaded build"
    return None
