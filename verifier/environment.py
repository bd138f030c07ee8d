"""What does not change while a program is verified: program, maps, profile, and the kernel's rules.

(What is gathered on the way does: fresh ids, how deep each function's stack was used, and which
instructions were seen to access what of the kernel.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import TYPE_CHECKING

from pybpfvm.bits import U32
from pybpfvm.btf.kernelfields import Field
from pybpfvm.btf.types import Btf
from pybpfvm.isa.codec import pcs, target_pc
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind, Pseudo
from pybpfvm.loader.target import kernel_btf
from pybpfvm.profiles.base import CtxField, Profile, Sleepable
from pybpfvm.profiles.detect import matching_section
from pybpfvm.profiles.loop_upstream import kernel_btf_of
from pybpfvm.program import BpfObject, MapSpec, MapType, Program, Subprog
from pybpfvm.verifier.kernelobjects.attach import Attachment, attachment, is_btf_typed
from pybpfvm.verifier.observe import Observer
from pybpfvm.verifier.privileges.privilege import ALL, Capabilities, Mask
from pybpfvm.verifier.resources.fields import fields_of, object_fields, unique
from pybpfvm.verifier.states.regstate import Reg, RegType, Trust
from pybpfvm.verifier.usermemory.contract import Contract
from pybpfvm.verifier.usermemory.usernames import FROM_USER
from pybpfvm.verifier.verdict import Finding, Rule

# A report of more errors than these helps nobody: exploring ends there.
MAX_ERRORS = 100
DEFAULT_BUDGET_STATES = 200_000
DEFAULT_BUDGET_SECONDS = 600.0


if TYPE_CHECKING:
    from pybpfvm.uring_backend.loop.shape import RingShape
    from pybpfvm.verifier.resources.deferred import Deferred


@dataclass(frozen=True, slots=True)
class Options:
    """How to verify. `strict_ctx` as in `ctxaccess.ctx_violation`; `all_errors`: go on after an
    error with the other paths; `observer` hears what the explorer does; `rules` are those of a
    kernel, None for the one that the profile belongs to. `contract`: what is promised of user
    memory. `caps` are the loader's. `by_origin`: explore states apart that differ in what user
    space had to do with their numbers only, and in what the observers noted. `target_btf` has
    the types of the kernel that the program is for, None: the running one's. `ring`: the ring
    that it is for, where that is known.

    Three budgets bound the work; when one is used up, the verdict is Inconclusive and names it.
    `budget_insns` is the kernel's own limit of instructions processed. `budget_states` bounds the
    states in memory, those of paths that wait included: one takes 1 to 4 KiB, more with a deep
    stack. `budget_seconds` is wall-clock time; every other budget gives the same verdict on every
    machine."""

    budget_insns: int = 1_000_000
    budget_states: int = DEFAULT_BUDGET_STATES
    budget_seconds: float = DEFAULT_BUDGET_SECONDS
    strict_ctx: bool = True
    all_errors: bool = False
    observer: Observer | None = None
    caps: Capabilities = ALL
    rules: KernelRules | None = None
    contract: Contract | None = None
    by_origin: bool = False
    target_btf: Btf | None = None
    ring: RingShape | None = None


@dataclass(frozen=True, slots=True)
class KernelRules:
    """Where kernels differ. The defaults are 6.18's for a loader with CAP_BPF and CAP_PERFMON.

    `uninit_stack`: stack bytes never written may be read (since 6.3). `lookup_never_null`: looking
    up a constant index inside an array gives no NULL (since 6.14). `tracks_all`: more arithmetic
    is followed than the kernel follows (division, shifts by unknown counts, signs that are
    extended, ... see `domains.alu`). `forgets_ranges`: of a
    number that has none of the bits it was tested for only the bits are known. `version`: code
    that is newer is refused (verifier/newer.py).
    """

    version: tuple[int, int] = (6, 18)
    uninit_stack: bool = True
    lookup_never_null: bool = True
    tracks_all: bool = False
    forgets_ranges: bool = True


RULES_618 = KernelRules()
# The kernels of the 2021 prototype: 5.12 to 5.15.
RULES_2021 = KernelRules((5, 15), uninit_stack=False, lookup_never_null=False, forgets_ranges=False)


# Licences that a kernel takes for compatible with the GPL.
GPL_COMPATIBLE = frozenset(
    {
        "GPL",
        "GPL v2",
        "GPL and additional rights",
        "Dual BSD/GPL",
        "Dual MIT/GPL",
        "Dual MPL/GPL",
    }
)


def default_rules(profile: Profile) -> KernelRules:
    """The rules of the kernel that a profile belongs to, where no other is asked for."""
    return RULES_618 if profile.ring is None else RULES_2021


@dataclass(slots=True)
class Environment:
    """One verification. `code` is keyed by pc, `functions` by the pc where a function starts;
    `by_kind` are the pcs of each kind of instruction that there is, in order.
    `traces`: numbers remember that they came from user space (`origin`). `masks` are those of
    `speculation`, by pc; `exact_offsets`: one depends on numbers, so that states only cover each
    other if those are the same. `lends_stack`: pointers to memory may be to buffers on the stack.
    `speculating`: the path is one that only a mispredicted branch
    takes; it ends before `barriers` and behind `store_barriers`. `tail_call_maps`: the map that
    each tail call names. `deferred`: the callbacks that were seen to be set to run
    later, `called_back` where those start that helpers were seen to call at once. `probes` as in
    `verdict.Accepted`. `has_arena`: the code names one."""

    program: Program
    obj: BpfObject
    profile: Profile
    options: Options
    rules: KernelRules
    code: Mapping[int, Insn]
    by_kind: Mapping[Kind, Sequence[int]]
    functions: Mapping[int, Subprog]
    sleepable: bool
    traces: bool = False
    warnings: dict[tuple[Rule, int], Finding] = field(default_factory=dict)
    stack_bytes: dict[int, int] = field(default_factory=dict)
    calls: dict[int, list[tuple[int, int]]] | None = None  # `structure.calls_of`, once known
    touches_kernel: dict[int, RegType | None] = field(default_factory=dict)
    ids: count[int] = field(default_factory=lambda: count(1))
    value_fields: dict[int, tuple[Field, ...]] = field(default_factory=dict)
    # What `checks.check_ctx` found of accesses: (offset, size, store, plain, signed).
    ctx_accesses: dict[tuple[int, int, bool, bool, bool], CtxField | None] = field(
        default_factory=dict
    )
    struct_fields: dict[int, tuple[Field, ...]] = field(default_factory=dict)
    deferred: dict[Deferred, None] = field(default_factory=dict)
    called_back: set[int] = field(default_factory=set)
    masks: dict[int, Mask] = field(default_factory=dict)
    exact_offsets: bool = False
    lends_stack: bool = False
    speculating: bool = False
    barriers: set[int] = field(default_factory=set)
    store_barriers: set[int] = field(default_factory=set)
    tail_call_maps: dict[int, int] = field(default_factory=dict)
    probes: bool = False
    has_arena: bool = field(init=False)
    _attachment: Attachment | None = None

    def __post_init__(self) -> None:
        self.has_arena = any(spec.type == MapType.ARENA for _, spec in self.named_maps())

    def pcs(self, *kinds: Kind) -> Sequence[int]:
        """The pcs of all instructions of these kinds, in order."""
        found = [self.by_kind[kind] for kind in kinds if kind in self.by_kind]
        if len(found) > 1:
            return sorted(chain(*found))
        return found[0] if found else ()

    def fields(self, spec: MapSpec) -> tuple[Field, ...]:
        """The kernel's own fields in the values of a map of the object. Raises Refused."""
        found = self.value_fields.get(id(spec))
        if found is None:
            found = self.value_fields[id(spec)] = unique(
                fields_of(self.obj.btf, spec), f"values of map {spec.name}"
            )
        return found

    def object_fields(self, type_id: int) -> tuple[Field, ...]:
        """The kernel's own fields in a program's objects of a struct. Raises Refused."""
        found = self.struct_fields.get(type_id)
        if found is None:
            assert self.obj.btf is not None
            found = self.struct_fields[type_id] = object_fields(self.obj.btf, type_id)
        return found

    def fields_behind(self, reg: Reg) -> tuple[Field, ...]:
        """The kernel's own fields in what a register points to. Raises Refused."""
        if reg.map is not None:
            return self.fields(reg.map)
        return self.object_fields(reg.btf_id) if reg.trust & Trust.ALLOC else ()

    @property
    def returns(self) -> tuple[int, int] | None:
        """The least and greatest value that the program may return, None if any."""
        if is_btf_typed(self.profile):
            return self.attachment.returns
        replaced = self.program.replaces
        if replaced is not None and replaced.function.start and self.profile.ring is not None:
            return None  # a kernel looks at the type alone, and that of ring programs has no range
        return self.profile.returns

    @property
    def gpl(self) -> bool:
        """Whether what is for GPL programs only is for this one."""
        return self.program.license in GPL_COMPATIBLE

    @property
    def maps(self) -> tuple[MapSpec, ...]:
        """The object's maps, in the order of their indices."""
        return self.obj.maps

    def named_maps(self) -> Iterator[tuple[int, MapSpec]]:
        """The maps that the code names, whether a path leads there or not, each with the pc where
        that is first."""
        seen: set[int] = set()
        for pc in self.pcs(Kind.LDDW):
            insn = self.code[pc]
            index = insn.imm & U32
            names = insn.src in (Pseudo.MAP_IDX, Pseudo.MAP_IDX_VALUE)
            if names and index < len(self.maps) and index not in seen:
                seen.add(index)
                yield pc, self.maps[index]

    @property
    def little(self) -> bool:
        """Whether the program is for a little-endian machine."""
        return not self.program.big_endian

    @property
    def target(self) -> Btf | None:
        """The BTF of the kernel that the program is for; read when it is first needed."""
        return self.options.target_btf or kernel_btf_of(self.profile) or kernel_btf()

    def btf_of(self, reg: Reg) -> Btf:
        """The BTF that `reg.btf_id` is an id of."""
        own = reg.trust & (Trust.ALLOC | Trust.LOCAL)
        found = self.obj.btf if own else self.target
        assert found is not None, "a BTF pointer comes from a BTF"
        return found

    @property
    def attachment(self) -> Attachment:
        """What a program with BTF arguments is attached to. Raises Refused."""
        if self._attachment is None:
            self._attachment = attachment(judged_as(self.program), self.profile, self.target)
        return self._attachment

    def new_id(self) -> int:
        """An id that no register has."""
        return next(self.ids)

    @property
    def by_origin(self) -> bool:
        """Whether a state covers another only if its numbers came from the same places."""
        return self.options.by_origin or self.options.contract is not None

    def warn(self, finding: Finding) -> None:
        """Keep a warning, once for each instruction and rule."""
        self.warnings.setdefault((finding.rule, finding.pc), finding)

    def used_stack(self, entry: int, low: int) -> None:
        """The function at `entry` used its stack down to r10 + `low`."""
        if -low > self.stack_bytes.get(entry, 0):
            self.stack_bytes[entry] = -low


def environment(
    program: Program, obj: BpfObject, profile: Profile, options: Options
) -> Environment:
    """The environment of verifying `program`."""
    profile = profile.for_section(judged_as(program).section)
    section = matching_section(profile, judged_as(program).section)
    if profile.sleepable is Sleepable.REQUIRED:
        sleepable = True
    else:
        sleepable = section is not None and section.sleepable
    code: dict[int, Insn] = {}
    by_kind: dict[Kind, list[int]] = {}
    for pc, insn in zip(pcs(program.insns), program.insns, strict=True):
        code[pc] = insn
        by_kind.setdefault(insn.spec.kind, []).append(pc)
    return Environment(
        program,
        obj,
        profile,
        options,
        _rules_for(options.rules or default_rules(profile), options.caps),
        code,
        by_kind,
        _functions(program, code, by_kind),
        sleepable,
        _traces(profile, options, [code[pc] for pc in by_kind.get(Kind.CALL, ())]),
    )


def judged_as(program: Program) -> Program:
    """The program whose section and callback decide what this one may do: itself, or the one that
    it replaces a function of."""
    return program.replaces.program if program.replaces is not None else program


def _rules_for(rules: KernelRules, caps: Capabilities) -> KernelRules:
    """Stack that was not written holds what other code left there: addresses, too."""
    return rules if caps.perfmon else replace(rules, uninit_stack=False)


def _traces(profile: Profile, options: Options, calls: Sequence[Insn]) -> bool:
    """Whether the program, with these calls of helpers, meets user memory at all."""
    return (
        profile.ring is not None
        or options.contract is not None
        or any(profile.helpers.get(insn.imm) in FROM_USER for insn in calls)
    )


def _functions(
    program: Program, code: Mapping[int, Insn], by_kind: Mapping[Kind, Sequence[int]]
) -> dict[int, Subprog]:
    """The functions by their first pc: those that are declared, and whatever is called."""
    starts = {sub.start for sub in program.subprogs if sub.start in code} | {0}
    for kind in (Kind.CALL_LOCAL, Kind.LDDW):
        for pc in by_kind.get(kind, ()):
            target = target_pc(code[pc], pc)
            if target is not None and target in code:
                starts.add(target)
    declared = {sub.start: sub for sub in program.subprogs}
    ordered = sorted(starts)
    ends = [*ordered[1:], program.slots]
    return {
        start: declared.get(start)
        or Subprog(f"{program.name}+{start}" if start else program.name, start, end)
        for start, end in zip(ordered, ends, strict=True)
    }
