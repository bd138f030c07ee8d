"""The running kernel's verifier as an oracle: programs in, its verdict and its reason out.

Every load is journalled before it is made: see `pybpfvm.session.kernel_journal`.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from pybpfvm import bpfsys
from pybpfvm.btf.types import Btf
from pybpfvm.btf.write import write_btf
from pybpfvm.fuzz.capabilities import lowered_to
from pybpfvm.isa.codec import encode
from pybpfvm.isa.insn import Insn
from pybpfvm.profiles.base import Profile
from pybpfvm.program import MapSpec, Subprog
from pybpfvm.session.against import last_words, refused_pc
from pybpfvm.session.attach_target import attach_target
from pybpfvm.session.kernel_journal import Journal
from pybpfvm.verifier.kernelobjects.attach import is_btf_typed
from pybpfvm.verifier.privileges.privilege import ALL, Capabilities
from pybpfvm.verifier.verdict import Accepted, Inconclusive, Kind, Rejected, Verdict


@dataclass(frozen=True, slots=True)
class KernelVerdict:
    """The kernel's answer: `pc` of the refused instruction if its log says, and the log."""

    accepted: bool
    errno: int = 0
    pc: int | None = None
    log: str = ""

    @property
    def message(self) -> str:
        """The line of the log that says what is wrong."""
        return last_words(self.log)


class KernelVerifier:
    """Loads programs that use `maps`, and unloads them at once. A context manager."""

    def __init__(
        self, maps: Sequence[MapSpec], journal: Journal | None = None, btf: Btf | None = None
    ) -> None:
        self._btf = _loaded(btf)
        self._maps = [
            bpfsys.map_create(
                spec.type,
                spec.key_size,
                spec.value_size,
                spec.max_entries,
                flags=spec.flags,
                btf_fd=self._btf.fileno() if spec.btf_value_type_id and self._btf else 0,
                btf_key_type_id=spec.btf_key_type_id if self._btf else 0,
                btf_value_type_id=spec.btf_value_type_id if self._btf else 0,
                map_extra=spec.map_extra,
            )
            for spec in maps
        ]
        self._journal = journal
        self.skipped = 0

    def judge(
        self,
        insns: Sequence[Insn],
        profile: Profile,
        *,
        section: str | None = None,
        license: str = "GPL",
        log: bool = True,
        subprogs: Sequence[Subprog] = (),
        caps: Capabilities = ALL,
    ) -> KernelVerdict | None:
        """The verdict; None for a program that an earlier run did not survive. `subprogs` with
        types are told to the kernel, if the verifier was made with BTF.

        `section` says what it is attached to, and whether it is sleepable (the profile's own
        otherwise). `caps` are the loader's. `log`: a refused program is loaded again with a log,
        to learn where and why.
        """
        code = encode(insns)
        types = func_info(subprogs)
        if section is None:
            section = profile.own_section
        profile = profile.for_section(section)
        name = f"{profile.prog_type} {section} ".encode()
        key = hashlib.sha256(name + code + types).hexdigest()
        if self._journal is not None:
            if key in self._journal.lost:
                self.skipped += 1
                return None
            self._journal.begin(key, profile.prog_type, code)
        with lowered_to(caps):
            verdict = self._load(code, profile, license, section, types, log=False)
            # Running into the limit of a million instructions takes a second; twice tells no more.
            if not verdict.accepted and log and verdict.errno != errno.E2BIG:
                verdict = self._load(code, profile, license, section, types, log=True)
        if self._journal is not None:
            self._journal.survived(key)
        return verdict

    def _load(
        self, code: bytes, profile: Profile, license: str, section: str, types: bytes, *, log: bool
    ) -> KernelVerdict:
        attach_type, attach_id = profile.attach_type, 0
        if is_btf_typed(profile):
            attach_type, attach_id = attach_target(section)
        rule = profile.section_rule(section)
        sleepable = rule is not None and rule.sleepable
        with bpfsys.prog_load(
            code,
            prog_type=profile.prog_type,
            license=license,
            flags=bpfsys.BPF_F_SLEEPABLE if sleepable else 0,
            map_fds=[made.fileno() for made in self._maps],
            log_level=1 if log else 0,
            expected_attach_type=attach_type,
            attach_btf_id=attach_id,
            btf_fd=self._btf.fileno() if types and self._btf is not None else 0,
            func_info=types if self._btf is not None else b"",
        ) as loaded:
            if loaded.accepted:
                return KernelVerdict(True, 0, None, loaded.log)
            return KernelVerdict(False, loaded.errno, refused_pc(loaded.log), loaded.log)

    def close(self) -> None:
        """Give the maps back."""
        for made in self._maps:
            made.close()
        if self._btf is not None:
            self._btf.close()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> KernelVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _loaded(btf: Btf | None) -> bpfsys.Fd | None:
    if btf is None:
        return None
    loaded = bpfsys.btf_load(write_btf(btf), log_level=1)
    assert loaded.fd is not None, loaded.log
    return loaded.fd


KERNEL = "kernel"  # the hits that count comparisons


class Comparison(Enum):
    """How our verdict stands to the kernel's."""

    AGREED = "agreed"
    STRICTER = "we-stricter"
    LOOSER = "we-looser"
    INCONCLUSIVE = "inconclusive"


def compared(kernel: KernelVerdict, ours: Verdict) -> Comparison:
    """The relation of the two verdicts. A kernel's limit is no judgement of what is safe, but a
    program that only the limit stops must not be accepted by us either."""
    if isinstance(ours, Inconclusive):
        # A million instructions are too many for both: that is agreement.
        both = kernel.errno == errno.E2BIG and ours.finding.kind is Kind.LIMIT
        return Comparison.AGREED if both else Comparison.INCONCLUSIVE
    accepted = isinstance(ours, Accepted)
    if accepted == kernel.accepted:
        return Comparison.AGREED
    return Comparison.LOOSER if accepted else Comparison.STRICTER


def same_place(kernel: KernelVerdict, ours: Verdict) -> bool | None:
    """Whether both refused at the same instruction; None where either has no place."""
    if kernel.accepted or kernel.pc is None or not isinstance(ours, Rejected):
        return None
    return ours.errors[0].pc == kernel.pc


def func_info(subprogs: Sequence[Subprog]) -> bytes:
    """What tells the kernel the types of functions; none of those without one."""
    typed = [sub for sub in subprogs if sub.btf_type_id]
    return b"".join(struct.pack("=II", sub.start, sub.btf_type_id) for sub in typed)
