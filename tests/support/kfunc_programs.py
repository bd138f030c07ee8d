"""Random programs that call one kfunc of the running kernel each, with arguments made after its
prototype: nearly right ones, so that about half of the calls are.

What a kfunc needs beside its prototype (flags) is not known here: the kernel says what is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pybpfvm.btf.types import (
    Btf,
    BtfKind,
    DeclTag,
    Enum,
    Enum64,
    Func,
    FuncProto,
    Int,
    Ptr,
    Struct,
)
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import BTF_TYPED
from pybpfvm.program import BpfObject, Program
from tests.support.verifier_cases import program_of

# Kfuncs that other tests are about: they need types, locks or objects of the program's own.
_ELSEWHERE = ("bpf_obj_", "bpf_percpu_obj_", "bpf_list_", "bpf_rbtree_", "bpf_wq_", "bpf_res_spin")
_ELSEWHERE_TOO = ("bpf_refcount_", "bpf_local_irq_", "bpf_task_work_", "__bpf_trap")
_TYPES = (
    "sched_cls",
    "xdp",
    "syscall",
    "tracing",
    "cgroup_skb",
    "sock_ops",
    "kprobe",
    "tracepoint",
)
_RELEASES = {
    "task_struct": "bpf_task_release",
    "cgroup": "bpf_cgroup_release",
    "bpf_cpumask": "bpf_cpumask_release",
    "bpf_key": "bpf_key_put",
    "nf_conn": "bpf_ct_release",
    "bpf_crypto_ctx": "bpf_crypto_ctx_release",
    "xfrm_state": "bpf_xdp_xfrm_state_release",
}
_MAKES = {
    "task_struct": "r1 = 7\ncall kfunc bpf_task_from_pid",
    "cgroup": "r1 = 1\ncall kfunc bpf_cgroup_from_id",
    "bpf_cpumask": "call kfunc bpf_cpumask_create",
    "cpumask": "call kfunc bpf_cpumask_create",
}
_PROFILES = {**PROFILES, **{one.name: one for one in BTF_TYPED}}


@dataclass(frozen=True, slots=True)
class Made:
    """A program that calls the kfunc `name`."""

    name: str
    text: str
    program: Program
    object: BpfObject
    profile: Profile


def kfuncs(btf: Btf) -> tuple[str, ...]:
    """The kfuncs that a kernel's BTF offers to programs, but those of other tests."""
    found = set()
    for type_id in btf.ids_of(BtfKind.DECL_TAG):
        tag = btf.type(type_id)
        assert isinstance(tag, DeclTag)
        if tag.name == "bpf_kfunc" and tag.component < 0:
            found.add(btf.name(tag.type_id))
    return tuple(sorted(n for n in found if not n.startswith((*_ELSEWHERE, *_ELSEWHERE_TOO))))


def generate(seed: int, btf: Btf, names: tuple[str, ...]) -> Made:
    """The program with this seed."""
    rng = Random(seed)
    name = names[seed % len(names)]
    kind = rng.choice(_TYPES)
    lines = _Writer(rng, btf, _PROFILES[kind]).program(name)
    text = "\n".join(lines)
    section = "tp_btf/sched_switch" if kind == "tracing" else None
    program, obj, profile = program_of(text, where=name, profile=_PROFILES[kind], section=section)
    return Made(name, text, program, obj, profile)


class _Writer:
    """Writes one program. r9 is the context, r8 any number, r7 an object."""

    def __init__(self, rng: Random, btf: Btf, profile: Profile) -> None:
        self._rng = rng
        self._btf = btf
        self._profile = profile

    def program(self, name: str) -> list[str]:
        proto = self._proto(name)
        objects = [self._struct(param.type_id) for param in proto.params]
        object_ = next((one for one in objects if one in _MAKES), "")
        lines = ["r9 = r1", "r8 = 3", *_numbers(), *_dynptr()]
        if object_:
            lines += [*_MAKES[object_].split("\n"), "if r0 == 0 goto end", "r7 = r0"]
        else:
            lines += ["r7 = 0"]
        lines += self._around(name)
        if object_ and not name.endswith("_release"):
            lines += ["r1 = r7", f"call kfunc {_RELEASES.get(object_, 'bpf_cpumask_release')}"]
        return [*lines, "end: r0 = 0", "exit"]

    def _around(self, name: str) -> list[str]:
        """The call, in a read section at times, and between new and destroy if it is next."""
        rng = self._rng
        section = rng.random() < 0.3
        before = ["call kfunc bpf_rcu_read_lock"] if section else []
        after = ["call kfunc bpf_rcu_read_unlock"] if section else []
        if name.startswith("bpf_iter_"):
            stem, _, verb = name.rpartition("_")
            if verb != "new":
                before += self._call(f"{stem}_new")
            if verb != "destroy":
                after = [*self._call(f"{stem}_destroy"), *after]
        return [*before, *self._call(name), *self._result(name), *after]

    def _proto(self, name: str) -> FuncProto:
        found = self._btf.find(name, BtfKind.FUNC)
        assert found is not None
        func = self._btf.type(found)
        assert isinstance(func, Func)
        proto = self._btf.type(func.type_id)
        assert isinstance(proto, FuncProto)
        return proto

    def _struct(self, type_id: int) -> str:
        """The name of the struct that a pointer is to; "" for other types."""
        pointer = self._btf.type(self._btf.resolve(type_id))
        if not isinstance(pointer, Ptr):
            return ""
        target = self._btf.type(self._btf.resolve(pointer.type_id))
        return target.name if isinstance(target, Struct) else ""

    def _call(self, name: str) -> list[str]:
        lines: list[str] = []
        for number, param in enumerate(self._proto(name).params, 1):
            lines += self._argument(number, param.name, param.type_id)
        return [*lines, f"call kfunc {name}"]

    def _argument(self, number: int, name: str, type_id: int) -> list[str]:
        rng, reg = self._rng, f"r{number}"
        kind = self._btf.type(self._btf.resolve(type_id))
        wrong = rng.random()
        if wrong < 0.04:
            return [f"{reg} = {rng.choice(('0', 'r9', 'r7', 'r10', '8'))}"]
        if isinstance(kind, Int | Enum | Enum64):
            return [
                f"{reg} = {8 if name.endswith(('__sz', '__szk')) else rng.choice((0, 1, 'r8'))}"
            ]
        struct = self._struct(type_id)
        if struct == self._profile.ctx_name or name in ("obj", "obj__ign"):
            return [f"{reg} = r9"]
        if name.endswith("__map") or struct == "bpf_map":
            return [f"{reg} = map[table] ll"]
        if name.endswith("__str"):
            return [f"{reg} = map[fixed][0]+0 ll"]
        if struct == "bpf_dynptr":
            return [f"{reg} = r10", f"{reg} += {-112 if name.endswith('__uninit') else -96}"]
        if struct.startswith("bpf_iter_"):
            return [f"{reg} = r10", f"{reg} += -144"]
        if struct in _MAKES or struct in ("cgroup_subsys_state",):
            return [f"{reg} = r7"]
        return [f"{reg} = r10", f"{reg} += -64"]

    def _result(self, name: str) -> list[str]:
        rng = self._rng
        proto = self._proto(name)
        release = _RELEASES.get(self._struct(proto.return_id))
        if release is None or name.startswith("bpf_iter_"):
            pointer = isinstance(self._btf.type(self._btf.resolve(proto.return_id)), Ptr)
            if pointer and rng.random() < 0.5:
                return ["if r0 == 0 goto +1", "r0 = *(u8 *)(r0 + 0)"]
            return []
        if rng.random() < 0.1:
            return []
        checked = ["if r0 == 0 goto +2"] if rng.random() < 0.9 else []
        return [*checked, "r1 = r0", f"call kfunc {release}"]


def _numbers() -> list[str]:
    return [f"*(u64 *)(r10 - {at}) = 0" for at in range(8, 65, 8)]


def _dynptr() -> list[str]:
    lines = ["r1 = map[single][0]+0 ll", "r2 = 32", "r3 = 0", "r4 = r10", "r4 += -96"]
    return [*lines, "call dynptr_from_mem"]
