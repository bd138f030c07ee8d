"""Generated programs that pass the kernel's objects around: the running kernel says the same.

Each is a few random steps on four registers (a task that the program was given, a map value with
kernel pointers, and copies of them), which are mostly used for what they are not.
"""

from __future__ import annotations

import os
import re
from random import Random

import pytest

from pybpfvm.fuzz.kernel_verdicts import Comparison
from pybpfvm.profiles.btf_typed import BTF_TYPED
from tests.support.object_verdicts import beside_the_kernel

PROGRAMS = int(os.environ.get("PYBPFVM_GENERATED_PROGRAMS", "600"))
FIRST = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))
_TRACING = next(one for one in BTF_TYPED if one.name == "tracing")
_BEGIN = """
*(u32 *)(r10 - 4) = 0
r6 = *(u64 *)(r1 + 8)
r2 = r10
r2 += -4
r1 = map[kptrs] ll
call map_lookup_elem
if r0 == 0 goto out
r9 = r0
r7 = r9
r8 = r6
"""
# Steps: {a} to {c} are registers, {v} one that mostly holds the map value, {n} a number of its own
# for labels; <one|another> are alternatives, ";" divides lines.
_STEPS = (
    "r1 = {a};call kfunc bpf_task_acquire;{b} = r0",
    "r1 = {a};call kfunc bpf_task_release",
    "r1 = 1;call kfunc bpf_task_from_pid;{b} = r0",
    "r1 = {v};r1 += <8|16|16|24|40>;r2 = <{b}|0>;call kptr_xchg;{c} = r0",
    "{b} = *(u64 *)({v} + <8|16|24|32|40>)",
    "*(u64 *)({a} + <0|8|16|56>) = <{b}|0|5>",
    "{b} = *(u64 *)({a} + [task_struct.<real_parent|group_leader|last_wakee|mm|cgroups>])",
    "call kfunc bpf_rcu_read_<lock|unlock>",
    "call kfunc bpf_preempt_<disable|enable>",
    "call get_current_task<|_btf>;{b} = r0",
    "if {a} <==|!=> <0|{b}> goto end",
    "if {a} == 0 goto end",
    "{b} = {a}",
    "*(u64 *)(r10 - <16|24>) = {a}",
    "{b} = *(u64 *)(r10 - <16|24>)",
    "{a} <+=|-=|&=> <0|8|-8|1|16>",
    "r1 = map[single][0]+0 ll;r2 = 32;r3 = 0;r4 = r10;r4 += -64;call dynptr_from_mem",
    "r1 = r10;r1 += -64;r2 = 0;r3 = 8;call dynptr_data;{b} = r0",
    "call kfunc bpf_cpumask_create;{b} = r0",
    "r1 = {a};call kfunc bpf_cpumask_release",
    "r1 = {a};r2 = [struct task_struct];call kfunc bpf_rdonly_cast;{b} = r0",
    "r3 = {a};r1 = r10;r1 += -72;r2 = 8;call probe_read_kernel",
    "r1 = map[guarded][0]+8 ll;call spin_<lock|unlock>",
    "r1 = r10;r1 += -40;r2 = 0;r3 = 3;call kfunc bpf_iter_num_new;"
    "turn{n}:;r1 = r10;r1 += -40;call kfunc bpf_iter_num_next;if r0 == 0 goto done{n};"
    "<{b} = *(u32 *)(r0 + 0)|{b} = r0|{a} = {b}>;goto turn{n};"
    "done{n}:;r1 = r10;r1 += -40;call kfunc bpf_iter_num_destroy",
    "r1 = {a};r2 = {b};call sub;{c} = r0",
)
_FUNCTIONS = (
    "r0 = r1",
    "r6 = r1;call kfunc bpf_task_acquire;r0 = 0",
    "call kfunc bpf_task_release;r0 = 0",
    "r0 = *(u64 *)(r1 + 0)",
    "call kfunc bpf_task_acquire",
    "r6 = r2;call kfunc bpf_rcu_read_<lock|unlock>;r0 = r6",
)


def _lines(rng: Random, step: str, number: int) -> list[str]:
    while (found := re.search(r"<([^<>]*)>", step)) is not None:
        step = step[: found.start()] + rng.choice(found[1].split("|")) + step[found.end() :]
    a, b, c = (f"r{rng.randrange(6, 10)}" for _ in range(3))
    return step.format(a=a, b=b, c=c, v=rng.choice(("r7", "r7", "r9", a)), n=number).split(";")


def _text(seed: int) -> str:
    rng = Random(seed)
    steps = [rng.choice(_STEPS) for _ in range(rng.randrange(1, 8))]
    lines = [line for number, step in enumerate(steps) for line in _lines(rng, step, number)]
    lines.append("end:")
    if rng.random() < 0.6:
        held = rng.randrange(6, 10)
        lines += [f"if r{held} == 0 goto out", f"r1 = r{held}", "call kfunc bpf_task_release"]
    lines += ["out:", "r0 = 0", "exit"]
    if "call sub" in lines:
        lines += ["sub:", *_lines(rng, rng.choice(_FUNCTIONS), 0), "exit"]
    return "\n".join([_BEGIN, *lines])


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same_of_generated_programs() -> None:
    accepted = inconclusive = 0
    seeds = range(FIRST, FIRST + PROGRAMS)
    for made in beside_the_kernel(_text, seeds, _TRACING, "tp_btf/sched_switch"):
        accepted += made.kernel.accepted
        inconclusive += made.relation is Comparison.INCONCLUSIVE
        assert made.relation in (Comparison.AGREED, Comparison.INCONCLUSIVE), made
    print(f"{PROGRAMS} programs: the kernel accepts {accepted}; {inconclusive} inconclusive")
    assert inconclusive < 0.03 * PROGRAMS
    assert accepted > 0.03 * PROGRAMS
