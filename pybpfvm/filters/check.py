"""Would a kernel take this program as a filter? The checks of classic BPF, then the white list.

abi/iouring-bpf-upstream, section 6.2. A kernel says -EINVAL and nothing more; here everything
that is wrong is listed, with the place and what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pybpfvm.filters.cbpf import MAX_INSNS, SCRATCH_WORDS, Insn, Kind, Mode, Spec
from pybpfvm.filters.context import CONTEXT_BYTES

_WORD_BYTES = 4
_BITS = 32


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with instruction `index` (None: the program as a whole)."""

    index: int | None
    reason: str
    remedy: str = ""


def check(insns: Sequence[Insn]) -> tuple[Problem, ...]:
    """Everything for which a kernel refuses the program as a filter (-EINVAL); empty: it loads."""
    found = (*check_classic(insns), *_not_allowed(insns))
    return tuple(sorted(found, key=lambda problem: problem.index or 0))


def check_classic(insns: Sequence[Insn]) -> tuple[Problem, ...]:
    """The rules that every classic BPF program has to keep, whatever it is for."""
    if not insns:
        return (Problem(None, "a program without instructions", "`ret #1` allows everything"),)
    if len(insns) > MAX_INSNS:
        return (Problem(None, f"{len(insns)} instructions", f"{MAX_INSNS} at most"),)
    found = [
        problem
        for index, insn in enumerate(insns)
        for problem in _problems(insn, index, len(insns))
    ]
    last = insns[-1].spec
    if last is None or last.kind is not Kind.RETURN:
        found.append(Problem(len(insns) - 1, "the last instruction does not return", "end in ret"))
    return (*found, *_uninitialised(insns))


def _problems(insn: Insn, index: int, count: int) -> Iterator[Problem]:
    """What is wrong with one instruction by itself."""
    spec = insn.spec
    if spec is None:
        yield Problem(index, f"classic BPF has no code {insn.code:#x}")
        return
    if spec.mode is Mode.IMM and insn.k == 0 and spec.op in ("div", "mod"):
        yield Problem(index, "division by the constant 0")
    if spec.mode is Mode.IMM and insn.k >= _BITS and spec.op in ("lsh", "rsh"):
        yield Problem(index, f"a shift by {insn.k} bits", f"words have {_BITS}")
    if spec.mode is Mode.SCRATCH and insn.k >= SCRATCH_WORDS:
        yield Problem(index, f"there is no M[{insn.k}]", f"M[0] to M[{SCRATCH_WORDS - 1}]")
    for target in targets(insn, index):
        if target >= count:
            yield Problem(
                index,
                f"the jump leads to l{target}, behind the last instruction",
                f"the last one is l{count - 1}",
            )


def _not_allowed(insns: Sequence[Insn]) -> Iterator[Problem]:
    """The white list: what classic BPF has and filters may not use."""
    for index, insn in enumerate(insns):
        spec = insn.spec
        if spec is None:
            continue
        if not spec.allowed:
            yield Problem(index, f"filters may not use `{_form(spec)}`", _instead(spec))
        elif spec.mode is Mode.WORD and (insn.k % _WORD_BYTES or insn.k >= CONTEXT_BYTES):
            yield Problem(
                index,
                f"no word of the context begins at {insn.k}",
                f"0 to {CONTEXT_BYTES - _WORD_BYTES}, in steps of {_WORD_BYTES}",
            )


def _form(spec: Spec) -> str:
    return f"{spec.name} {spec.mode.value}".rstrip()


def _instead(spec: Spec) -> str:
    if spec.mode is Mode.WORD:
        return "load the word `ld [k]` that holds it, then shift and mask"
    if spec.op == "mod":
        return "divide, multiply and subtract"
    return "filters see words of the context at constant offsets only"


def targets(insn: Insn, index: int) -> tuple[int, ...]:
    """Where a jump may lead, as places of instructions; () for anything else."""
    spec = insn.spec
    if spec is None:
        return ()
    if spec.kind is Kind.JUMP:
        return (index + 1 + insn.k,)
    if spec.kind is Kind.BRANCH:
        return (index + 1 + insn.jt, index + 1 + insn.jf)
    return ()


def _uninitialised(insns: Sequence[Insn]) -> Iterator[Problem]:
    """Loads of scratch words that may not have been stored to, whatever else is wrong.

    As in the kernel: one pass, as jumps only go forward; behind a jump only its targets count,
    behind a return what was stored before it.
    """
    everything = (1 << SCRATCH_WORDS) - 1
    at_target = [everything] * len(insns)
    stored = 0
    for index, insn in enumerate(insns):
        spec = insn.spec
        stored &= at_target[index]
        if spec is not None and spec.mode is Mode.SCRATCH and insn.k < SCRATCH_WORDS:
            if spec.kind in (Kind.STORE_A, Kind.STORE_X):
                stored |= 1 << insn.k
            elif not stored >> insn.k & 1:
                yield Problem(
                    index,
                    f"M[{insn.k}] may not have been stored to",
                    "store to it first, on all paths",
                )
        leads_to = targets(insn, index)
        for target in leads_to:
            if target < len(insns):
                at_target[target] &= stored
        if leads_to:
            stored = everything
