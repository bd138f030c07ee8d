"""Generated programs of arena pointers, numbers and the stack: the running kernel says the same."""

from __future__ import annotations

import os
from random import Random

import pytest

from pybpfvm.fuzz.kernel_verdicts import Comparison
from pybpfvm.profiles import PROFILES
from pybpfvm.verifier.verdict import Rejected, Rule
from tests.support.object_verdicts import beside_the_kernel

PROGRAMS = int(os.environ.get("PYBPFVM_GENERATED_PROGRAMS", "600"))
FIRST = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))
_BEGIN = """
r1 = map[arena][0]+0 ll
r6 = addr_space_cast(r1, 0, 1)
r7 = *(u64 *)(r6 + 0)
r8 = r10
r8 += -64
r9 = r6
*(u64 *)(r10 - 64) = 0
*(u64 *)(r10 - 56) = r6
"""
_ALU = ("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "s>>=", "=")
_JUMPS = ("==", "!=", ">", "s<", "&")
_SIZES = ("u8", "u16", "u32", "u64")


def _line(rng: Random, label: int) -> str:
    a, b = (rng.choice("6789") for _ in range(2))
    size, wide = rng.choice(_SIZES), rng.choice("rrw")
    off = f"{rng.choice((0, 0, 8, -8, 1, 4096)):+}".replace("+", "+ ").replace("-", "- ")
    value = rng.choice((f"r{b}", str(rng.choice((1, 7, 63)))))
    match rng.choice("accllssmvpbtuh"):
        case "a":
            right = f"{wide}{b}" if rng.random() < 0.5 else str(rng.choice((1, 2, 31)))
            return f"{wide}{a} {rng.choice(_ALU)} {right}"
        case "c":
            return f"r{a} = addr_space_cast(r{b}, {rng.choice(('0, 1', '0, 1', '1, 0'))})"
        case "l":
            return f"r{a} = *({size} *)(r{b} {off})"
        case "s":
            return f"*({size} *)(r{a} {off}) = {value}"
        case "m":
            return f"r{a} = *({rng.choice(('s8', 's16', 's32'))} *)(r{b} {off})"
        case "v":
            return rng.choice((f"r{a} = -r{a}", f"r{a} = be32 r{a}", f"r{a} = (s16)r{b}"))
        case "p":
            return f"*(u64 *)(r10 - 56) = r{a}"
        case "b":
            return f"if r{a} {rng.choice(_JUMPS)} {value} goto end{label}"
        case "t":
            text = rng.choice(
                ("lock *(u64 *)(r{0} + 0) += r{1}", "lock *(u32 *)(r{0} + 0) ^= w{1}")
            )
            return text.format(a, b)
        case "u":
            name = rng.choice(("fetch_add", "fetch_or"))
            return f"r{b} = atomic64_{name}((u64 *)(r{a} + 0), r{b})"
    return f"r{a} = *(u64 *)(r10 - 56)"


def _text(seed: int) -> str:
    rng = Random(seed)
    lines = [_BEGIN]
    for label in range(rng.randrange(1, 3)):
        lines += [_line(rng, label) for _ in range(rng.randrange(1, 7))]
        lines.append(f"end{label}:")
    return "\n".join([*lines, "r0 = 0", "exit"])


@pytest.mark.kernel_bpf
def test_the_kernel_says_the_same_of_generated_programs() -> None:
    accepted = stricter = 0
    seeds, profile = range(FIRST, FIRST + PROGRAMS), PROFILES["sched_cls"]
    for made in beside_the_kernel(_text, seeds, profile, "tc", typed=False):
        accepted += made.kernel.accepted
        stricter += made.relation is Comparison.STRICTER
        if made.relation is Comparison.STRICTER:
            # Kernels let one instruction be for what is in the arena and for what is not.
            assert isinstance(made.ours, Rejected)
            assert made.ours.errors[0].rule in (Rule.ARENA, Rule.CTX_ACCESS), made
        else:
            assert made.relation is Comparison.AGREED, made
    print(f"{PROGRAMS} programs: the kernel accepts {accepted}, {stricter} of which we do not")
    assert stricter < 0.05 * PROGRAMS
    assert 0.2 * PROGRAMS < accepted < 0.8 * PROGRAMS
