"""A machine: one address space with the objects loaded into it and the rings that run them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from pybpfvm import __version__
from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.loader.kconfig import Kconfig
from pybpfvm.memory import AddressSpace
from pybpfvm.objectfile import check_abi, detect_abi, read_object
from pybpfvm.profiles import profile_named, with_helpers
from pybpfvm.session.constants import with_constants
from pybpfvm.session.objects import LoadedObject
from pybpfvm.session.user import UserMemory
from pybpfvm.session.values import Value
from pybpfvm.trace.recorder import Recorder
from pybpfvm.uring_backend.loop.attach import RingTable


class Machine:
    """Owns the memory in which objects, user blocks and rings live; closing it frees everything.

    `limit_bytes` bounds that memory. Objects and rings that shall share maps or user memory must
    belong to one machine; `pybpfvm.load` and `pybpfvm.Ring` use `default_machine()`.
    """

    def __init__(self, *, limit_bytes: int = 1 << 30) -> None:
        self.memory = AddressSpace(limit_bytes=limit_bytes)
        self.user = UserMemory(self.memory)
        self.recorder = Recorder(self.memory)
        self.rings = RingTable()  # descriptors of the rings that programs drive from inside enter

    def load(
        self,
        source: str | os.PathLike[str] | bytes,
        *,
        abi: str | None = None,
        helpers: Mapping[int, str] | None = None,
        btf: Btf | None = None,
        kconfig: Kconfig | None = None,
        constants: Mapping[str, Value | str] | None = None,
        replace: Mapping[str, str] | None = None,
        cpus: int = 1,
    ) -> LoadedObject:
        """Load an ELF object and bring its maps to life.

        `abi` names a profile (detected without); `helpers` gives helper numbers other meanings;
        `btf` is the target of CO-RE relocations (ring types and the running kernel's without),
        `kconfig` the configuration for kconfig externs (the running kernel's without).
        `constants` are values for variables in .rodata, which nobody can change afterwards: as
        for `globals`, or as text. `replace` names, by function, the object (PATH or PATH:PROGRAM)
        whose freplace program takes its place.
        Raises InputError for an object that can not be used.
        """
        obj = with_constants(
            read_object(source, btf=btf, kconfig=kconfig, abi=abi),
            constants or {},
            where="constants.",
        )
        if replace:
            # Only what is accepted replaces a function: that takes the verifier.
            from pybpfvm.session.judging import JudgeRequest
            from pybpfvm.session.replacing import with_replaced

            request = JudgeRequest(abi=abi, helpers=helpers or {}, btf=btf, kconfig=kconfig)
            obj = with_replaced(obj, replace, request)
        profile = None
        detection = detect_abi(obj)
        if abi is not None:
            profile = profile_named(abi)
            check_abi(obj, detection, profile)
        elif detection.profile is not None:
            profile = detection.profile
        for name in (helpers or {}).values():
            if name not in HELPERS:
                raise InputError(f"no helper is called {name!r}", where="helpers")
        if profile is not None and helpers:
            profile = with_helpers(profile, helpers)
        place = self.memory.place
        image = Image(obj, self.memory, cpus=cpus)
        named = None if profile is None else profile.name
        self.recorder.loaded(image, source, place, named, helpers or {}, cpus)
        return LoadedObject(image, profile, detection, btf, self.recorder)

    def record(
        self, path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
    ) -> None:
        """Record to `path` what happens from now on, until `end_recording` or `close`; `options`
        are kept with it. Programs outside any ring are recorded, and rings that are made from now
        on. Raises InputError where a recording is being made, and for a file that can not be
        written; engines do for objects whose programs have run before."""
        self.recorder.start(path, __version__, options or {})

    def end_recording(self) -> None:
        """End the recording; twice is fine."""
        self.recorder.stop()

    def close(self) -> None:
        """Free all memory; rings must be closed before. Twice is fine."""
        self.recorder.stop()
        self.memory.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


_default: Machine | None = None


def default_machine() -> Machine:
    """The machine of `pybpfvm.load` and `pybpfvm.Ring`, made at first use; it lives as long as
    the process, or until it is closed (then the next use makes a new one)."""
    global _default
    if _default is None or _default.memory.closed:
        _default = Machine()
    return _default
