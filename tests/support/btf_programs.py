"""Programs on kernel objects, made from a seed: loads through arguments, kfuncs, regions, mistakes.

A program attaches to a tracepoint, iterator or struct_ops member, loads its arguments and follows
members of the running kernel's structs at offsets that are right, or a little wrong.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pybpfvm.btf.types import Btf, BtfKind, FuncProto, Ptr, Struct, Typedef, Union
from pybpfvm.isa.asm import assemble
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import BTF_TYPED, btf_typed_profile
from pybpfvm.program import BpfObject, Program
from tests.support.attach_targets import with_kernel_ids

_TRACEPOINTS = ("sched_switch", "sched_process_fork", "tcp_send_reset", "kfree_skb", "sched_wakeup")
_SECTIONS = (
    *(f"tp_btf/{name}" for name in _TRACEPOINTS),
    "iter/task",
    "iter.s/task",
    "iter/task_file",
    "iter/cgroup",
    "struct_ops/bpf_dummy_ops/test_1",
    "struct_ops/tcp_congestion_ops/ssthresh",
)
_SIZES = (1, 2, 4, 8)
_KFUNCS = (
    "bpf_task_acquire",
    "bpf_task_release",
    "bpf_cgroup_acquire",
    "bpf_cgroup_release",
    "bpf_cpumask_first",
    "bpf_task_under_cgroup",
    "bpf_strlen",
)
_REGIONS = (
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
    "bpf_preempt_disable",
    "bpf_preempt_enable",
)


@dataclass(frozen=True, slots=True)
class Made:
    """A generated program, and its text for people."""

    program: Program
    object: BpfObject
    profile: Profile
    text: str


def generate(seed: int, btf: Btf) -> Made:
    """The program of this seed."""
    rng = random.Random(f"btf {seed}")
    section = rng.choice(_SECTIONS)
    text = _Writer(rng, btf, section).text()
    insns = assemble(with_kernel_ids(text), where=f"seed {seed}", calls={"task_pt_regs": 175})
    program = Program(f"p{seed}", section, insns, license="GPL")
    profile = btf_typed_profile(section)
    assert profile in BTF_TYPED
    return Made(program, BpfObject("made", "", (program,), (), license="GPL"), profile, text)


class _Writer:
    """Writes one program. `held`: registers and what they are thought to point to (0: no idea)."""

    def __init__(self, rng: random.Random, btf: Btf, section: str) -> None:
        self.rng = rng
        self.btf = btf
        self.section = section
        self.lines = ["r9 = r1"]
        self.held: dict[int, int] = {}
        self.references: list[int] = []
        self.labels = 0

    def text(self) -> str:
        rng = self.rng
        kinds = _argument_structs(self.btf, self.section)
        for register, index in zip((6, 7), rng.sample(range(len(kinds)), min(2, len(kinds)))):
            self.lines.append(f"r{register} = *(u64 *)(r9 + {8 * index})")
            self.held[register] = kinds[index]
            if rng.random() < 0.85:
                self.check(register)
        for _ in range(rng.randrange(1, 9)):
            step = rng.choices(
                (self.follow, self.number, self.kfunc, self.region, self.spill, self.odd),
                (8, 8, 1, 2, 2, 1),
            )[0]
            step()
        for register in self.references:
            if rng.random() < 0.9:
                self.lines += [f"r1 = r{register}", "call kfunc bpf_task_release"]
        if self.section.startswith("iter") and rng.random() < 0.05:
            self.lines.append("r0 = 7")
        else:
            self.lines.append("r0 = 0")
        return "\n".join([*self.lines, "exit", "out: r0 = 0", "exit"])

    def check(self, register: int) -> None:
        """Leave if the register is 0 (with what is held still held, at times)."""
        self.lines.append(f"if r{register} == 0 goto out")

    def follow(self) -> None:
        """Load a pointer member."""
        rng = self.rng
        register = rng.choice(tuple(self.held) or (9,))
        members = _members(self.btf, self.held.get(register, 0), pointers=True)
        if not members:
            return
        offset, target = rng.choice(members)
        size = 8 if rng.random() < 0.97 else rng.choice(_SIZES)
        to = rng.choice((6, 7, 8))
        self.lines.append(f"r{to} = *(u{8 * size} *)(r{register} + {offset})")
        self.held[to] = target
        if not target:
            del self.held[to]
        if rng.random() < 0.3:
            self.check(to)

    def number(self) -> None:
        """Load a number, at times from beside it."""
        rng = self.rng
        register = rng.choice(tuple(self.held) or (9,))
        members = _members(self.btf, self.held.get(register, 0), pointers=False)
        offset, size = rng.choice(members) if members else (rng.randrange(64), 4)
        size = size if size in _SIZES else rng.choice(_SIZES)
        if rng.random() < 0.05:
            offset += rng.choice((-1, 1, 2, 4))
        if rng.random() < 0.05:
            size = rng.choice(_SIZES)
        sign = "-" if offset < 0 else "+"
        place = f"*(u{8 * size} *)(r{register} {sign} {abs(offset)})"
        to = rng.choice((0, 2, 3))
        self.lines.append(f"{place} = 1" if rng.random() < 0.02 else f"r{to} = {place}")

    def kfunc(self) -> None:
        """Call one, with what is at hand."""
        rng = self.rng
        name = rng.choice(_KFUNCS)
        register = rng.choice((6, 7, 8, 8))
        if register == 8 and 8 not in self.held:
            register = 6
        self.lines.append(f"r1 = r{register}")
        if name == "bpf_task_under_cgroup":
            self.lines.append(f"r2 = r{rng.choice((6, 7))}")
        self.lines.append(f"call kfunc {name}")
        if name == "bpf_task_acquire" and rng.random() < 0.9:
            self.labels += 1
            done = f"done{self.labels}"
            self.lines += [f"if r0 == 0 goto {done}", "r8 = r0", "r1 = r8"]
            self.lines += ["call kfunc bpf_task_release", f"{done}: r8 = 0"]
            self.held.pop(8, None)

    def region(self) -> None:
        """Open or close one."""
        rng = self.rng
        first = rng.choice((0, 2))
        if rng.random() < 0.8:
            self.lines.append(f"call kfunc {_REGIONS[first]}")
            self.follow()
            self.lines.append(f"call kfunc {_REGIONS[first + 1]}")
        else:
            self.lines.append(f"call kfunc {rng.choice(_REGIONS)}")

    def spill(self) -> None:
        """To the stack and back."""
        register = self.rng.choice(tuple(self.held) or (9,))
        to = self.rng.choice((6, 7, 8))
        self.lines += [f"*(u64 *)(r10 - 8) = r{register}", f"r{to} = *(u64 *)(r10 - 8)"]
        self.held[to] = self.held.get(register, 0)

    def odd(self) -> None:
        """Arithmetic and comparisons that are not always allowed."""
        register = self.rng.choice(tuple(self.held) or (9,))
        self.lines.append(
            self.rng.choice(
                (
                    f"r{register} += 8",
                    f"r{register} -= 8",
                    f"r{register} += -16",
                    f"r{register} <<= 1",
                    f"w{register} += 1",
                    f"r{register} &= 7",
                    f"r{register} = 0",
                    f"if r{register} > 4 goto out",
                    f"r1 = r{register}\ncall task_pt_regs",
                    f"r2 = *(u8 *)(r{register} + 0)\nr{register} += r2",
                )
            )
        )


def _argument_structs(btf: Btf, section: str) -> list[int]:
    """For each argument, the struct that it points to, 0 for none."""
    kind, _, target = section.partition("/")
    skip = 0
    if kind == "tp_btf":
        found = btf.find(f"btf_trace_{target}", BtfKind.TYPEDEF)
        typedef = btf.type(found or 0)
        assert isinstance(typedef, Typedef)
        pointer = btf.type(typedef.type_id)
        assert isinstance(pointer, Ptr)
        proto = btf.type(pointer.type_id)
        skip = 1
    elif kind == "struct_ops":
        struct_name, _, name = target.partition("/")
        struct = btf.type(btf.find(struct_name, BtfKind.STRUCT) or 0)
        assert isinstance(struct, Struct)
        member = next(one for one in struct.members if one.name == name)
        pointer = btf.type(btf.resolve(member.type_id))
        assert isinstance(pointer, Ptr)
        proto = btf.type(btf.resolve(pointer.type_id))
    else:
        func = btf.type(btf.find(f"bpf_iter_{target}", BtfKind.FUNC) or 0)
        proto = btf.type(func.type_id)  # type: ignore[union-attr]
    assert isinstance(proto, FuncProto)
    return [_pointee(btf, param.type_id) for param in proto.params[skip:]]


def _pointee(btf: Btf, type_id: int) -> int:
    """The struct that a type points to, 0 if it does not."""
    pointer = btf.type(btf.resolve(type_id))
    if not isinstance(pointer, Ptr):
        return 0
    target = btf.resolve(pointer.type_id)
    return target if isinstance(btf.type(target), Struct | Union) else 0


def _members(btf: Btf, struct_id: int, *, pointers: bool) -> list[tuple[int, int]]:
    """(offset, struct pointed to) of pointer members, or (offset, size) of the others."""
    struct = btf.type(struct_id)
    if not isinstance(struct, Struct | Union):
        return []
    found = []
    for member in struct.members:
        offset = member.bit_offset // 8
        if offset > 32000:
            break
        pointer = isinstance(btf.type(btf.resolve(member.type_id)), Ptr)
        if pointer and pointers:
            found.append((offset, _pointee(btf, member.type_id)))
        elif not pointer and not pointers:
            size = 4 if member.bitfield_bits else btf.size(member.type_id)
            found.append((offset, size))
    return found
