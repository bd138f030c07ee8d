"""What an ABI is, as data. The verifier reads it to judge, the VM and the ring to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class CtxField:
    """A context field; accesses must have exactly its offset and size."""

    name: str
    offset: int
    size: int
    writable: bool


class Sleepable(Enum):
    """Whether programs of an ABI may, must or can not be sleepable."""

    NEVER = "never"
    OPTIONAL = "optional"
    REQUIRED = "required"


class WaitBy(Enum):
    """How a run asks to be run again when CQEs have arrived."""

    NOTHING = "can not wait"
    WAIT_NR = "wait_nr is not 0 at exit"
    RETURN = "the return value is WAIT"


@dataclass(frozen=True, slots=True)
class RingRules:
    """How a ring of this ABI treats BPF requests (iouring-bpf-2021, sections 0.1, 1 and 3)."""

    bpf_opcode: int
    register_opcode: int
    unregister_opcode: int
    extra_cqs: bool
    cqe_skip: bool  # IOSQE_CQE_SKIP_SUCCESS exists
    wait_by: WaitBy
    wait_value: int  # the return value that means WAIT, for WaitBy.RETURN
    ctx_persists: bool  # wait_nr/wait_idx keep their values from run to run
    length_checked: bool  # submit and reap check their length argument at run time
    bad_sqe_joins_chain: bool  # a bad SQE with an open chain becomes a failed member (v3)
    submit_returns_errno: bool  # v1: 0 accepted, -errno bad and no CQE; later: 1 / 0 with a CQE


@dataclass(frozen=True, slots=True)
class SectionRule:
    """Programs in sections that start with `prefix` belong to the profile."""

    prefix: str
    sleepable: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """One ABI. `helpers` maps the numbers a program calls to names in `pybpfvm.helpers.table`.

    `returns` is the inclusive range of allowed return values, None where any is allowed.
    `types` are the C types programs see, as (struct name, size, ((field, offset, size), ...)),
    from which the built-in BTF for CO-RE is made.
    """

    name: str
    title: str
    prog_type: int
    sections: tuple[SectionRule, ...]
    ctx_name: str
    ctx_bytes: int
    ctx_fields: tuple[CtxField, ...]
    helpers: Mapping[int, str]
    returns: tuple[int, int] | None
    sleepable: Sleepable
    ring: RingRules | None = None
    types: tuple[tuple[str, int, tuple[tuple[str, int, int], ...]], ...] = ()
    experimental: bool = False
    notes: tuple[str, ...] = field(default=())

    def ctx_field(self, offset: int, size: int) -> CtxField | None:
        """The field that an access of `size` bytes at `offset` names exactly, or None."""
        for ctx_field in self.ctx_fields:
            if ctx_field.offset == offset and ctx_field.size == size:
                return ctx_field
        return None
