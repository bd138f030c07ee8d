"""Asking the running kernel for its verdict on programs that were judged here."""

from __future__ import annotations

import errno
import hashlib
import re
from pathlib import Path

from pybpfvm import bpfsys
from pybpfvm.errors import InputError, errno_name
from pybpfvm.isa.codec import encode
from pybpfvm.profiles.base import Profile
from pybpfvm.program import BpfObject, Program
from pybpfvm.session.judged import KernelSide
from pybpfvm.session.kernel_journal import Journal, default_path
from pybpfvm.session.kernel_object import KernelObject
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed

# Lines of a log that tell of the walk, or count it, and not of an error.
_NOISE = re.compile(
    r"processed \d+ insns|\d+: |; |verification time|stack depth|mark_precise|from \d+ to|func#"
    r"|Validating|Func#|.*is safe for any args"
)
# What a log says about places: an instruction being looked at, and those that the passes before
# and after name in words.
_STEP = re.compile(r"^(\d+): \([0-9a-f]{2}\) ", re.MULTILINE)
_NAMED = re.compile(
    r"\b(?:unreachable insn|jump out of range from insn|jump into the middle of ldimm64 insn"
    r"|invalid func|back-edge from insn|insn) (\d+)"
)


class RunningKernel:
    """The running kernel, asked about one object after the other; call it as `AskKernel`."""

    def __init__(self, journal: Path | None = None) -> None:
        """`journal`: a path other than the default. InputError where programs can not be loaded,
        or the journal not written."""
        reason = bpfsys.available()
        if reason is not None:
            raise InputError(reason, where="--against kernel", remedy="`pybpfvm doctor` says more")
        path = journal or default_path()
        try:
            self._journal = Journal(path)
        except OSError as error:
            raise InputError(
                f"the journal can not be written: {error.strerror}",
                where=f"--against kernel: {path}",
                remedy="set XDG_STATE_HOME to a folder that can be written",
            ) from None
        self._object: KernelObject | None = None
        self._refusal = ""
        self._of: BpfObject | None = None

    def __call__(self, obj: BpfObject, program: Program, profile: Profile) -> KernelSide:
        """Its verdict on `program` of `obj`; `accepted` is None, with the reason, where there
        is none."""
        if profile.ring is not None:
            return KernelSide(None, "the running kernel has no BPF requests")
        if profile.loop is not None:
            return KernelSide(None, f"what the program calls is resolved for {profile.name}")
        if obj is not self._of:
            self._open(obj)
        if self._object is None:
            return KernelSide(None, self._refusal)
        if self._object.btf is None and any(sub.is_global for sub in program.subprogs[1:]):
            return KernelSide(None, "it does not take the BTF that says which functions are global")
        return self._judge(self._object, program, profile)

    def _open(self, obj: BpfObject) -> None:
        self.close()
        self._of = obj
        try:
            self._object = KernelObject(obj)
        except InputError as error:
            self._refusal = error.reason
        except OSError as error:
            self._refusal = f"it does not make the object's maps: {error.strerror}"

    def _judge(self, loader: KernelObject, program: Program, profile: Profile) -> KernelSide:
        code = encode(program.insns, big_endian=program.big_endian)
        name = f"{profile.prog_type} {program.section}".encode()
        key = hashlib.sha256(name + code).hexdigest()
        if key in self._journal.lost:
            return KernelSide(None, "an earlier run did not survive loading it: see the journal")
        self._journal.begin(key, profile.prog_type, code)
        try:
            with loader.load(program, profile) as loaded:
                side = KernelSide(loaded.accepted, "", loaded.errno)
        except InputError as error:
            self._journal.survived(key)
            return KernelSide(None, error.reason)
        # Running into the limit of a million instructions takes a second; twice tells no more.
        if not side.accepted and side.errno != errno.E2BIG:
            with loader.load(program, profile, log_level=1) as loaded:
                side = KernelSide(loaded.accepted, "", loaded.errno, None, loaded.log)
        self._journal.survived(key)
        if side.accepted:
            return KernelSide(True)
        message = last_words(side.log)
        attaches = is_btf_typed(profile) or program.replaces is not None
        if not message and side.errno == errno.EPERM and attaches:
            # Nothing speaks against the program, but it may not be where it asks to be.
            return KernelSide(None, "this machine lets nobody attach to functions (EPERM)")
        message = message or errno_name(side.errno)
        return KernelSide(False, message, side.errno, refused_pc(side.log), side.log)

    def close(self) -> None:
        """Give the maps back; it can be asked on."""
        if self._object is not None:
            self._object.close()
        self._object = self._of = None


def last_words(log: str) -> str:
    """The line of a log that says what is wrong, "" if none does."""
    told = [line for line in log.splitlines() if line.strip() and not _NOISE.match(line)]
    return told[-1] if told else ""


def refused_pc(log: str) -> int | None:
    """The instruction that a log of level 1 ends at, or that its last words name."""
    steps = _STEP.findall(log)
    if steps:
        return int(steps[-1])
    named = _NAMED.findall(log)
    return int(named[0]) if named else None
