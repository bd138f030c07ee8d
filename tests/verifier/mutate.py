"""Rule mutation: switch each rule of the verifier off, one at a time; some test must notice.

`make mutate`, or `python -m tests.verifier.mutate [-j N] [--only TEXT] [--sample N]`. A mutant is
the verifier with one statement changed:

    refusal    a refusal is not raised
    cover      the comparison of states says that a difference does not matter
    precision  a number that a decision hangs on is not marked
    forget     what an instruction makes invalid is not forgotten

The corpus judges a mutant first, then the other tests that need no kernel. Prints a table and the
survivors; exit code 1 if there are more of them than `--allow`.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import ModuleType

from tests.support.evidence import keep

ROOT = Path(__file__).parents[2]
VERIFIER = ROOT / "verifier"
TESTS = ROOT / "tests/verifier"
TIMEOUT_S = 240
_REFUSING = frozenset({"Refused", "forbidden", "unsupported"})
_FORGETTING = frozenset({"forget_packet", "_release", "release", "invalidate"})
_UNJUDGED = frozenset({"contract_parse.py", "loadcheck.py"})  # no verdicts come from here


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed statement: `kind` as above, `line` from 1 in `file` of the verifier."""

    kind: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.kind:9} {self.file}:{self.line}: {self.text}"


def mutants() -> Iterator[Mutant]:
    """Every mutant, by file and line."""
    for path in sorted(VERIFIER.glob("**/*.py")):
        if path.name in _UNJUDGED or "domains" in path.parts:
            continue  # the domains have their own: tests/verifier/domains
        source = path.read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            kind = _kind(node, path.name)
            if kind:
                assert isinstance(node, ast.stmt)
                text = lines[node.lineno - 1].strip()
                yield Mutant(kind, str(path.relative_to(VERIFIER)), node.lineno, text)


def _kind(node: ast.AST, file: str) -> str:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
        return "refusal" if name in _REFUSING or name.startswith("_") else ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):
        return "refusal" if file == "structure.py" else ""
    if isinstance(node, ast.Return) and file == "prune.py":
        constant = node.value
        return "cover" if isinstance(constant, ast.Constant) and constant.value is False else ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name = getattr(node.value.func, "id", getattr(node.value.func, "attr", ""))
        if name == "mark_precise":
            return "precision"
        return "forget" if name in _FORGETTING else ""
    return ""


class _Change(ast.NodeTransformer):
    """Changes the statement of one kind at one line."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.done = False

    def visit(self, node: ast.AST) -> ast.AST:
        at = isinstance(node, ast.stmt) and node.lineno == self.mutant.line
        if at and _kind(node, Path(self.mutant.file).name) == self.mutant.kind:
            assert isinstance(node, ast.stmt)
            self.done = True
            if self.mutant.kind == "cover":
                return ast.copy_location(ast.Return(ast.Constant(True)), node)
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


def install(mutant: Mutant) -> None:
    """Put the changed module where imports find it; nothing may have imported it yet."""
    dotted = mutant.file.removesuffix(".py").replace("/", ".")
    name = "pybpfvm.verifier." + dotted.removesuffix(".__init__")
    assert name not in sys.modules, name
    change = _Change(mutant)
    tree = change.visit(ast.parse((VERIFIER / mutant.file).read_text()))
    assert change.done, mutant
    assert isinstance(tree, ast.Module)
    ast.fix_missing_locations(tree)
    spec = importlib.util.find_spec(name)
    assert spec is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(tree, str(VERIFIER / mutant.file), "exec"), module.__dict__)


def fate(mutant: Mutant) -> tuple[Mutant, str]:
    """What noticed the mutant: a case of the corpus, a test, a time-out; "" if nothing did.

    In a process of its own.
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(TIMEOUT_S)
    try:
        install(mutant)
        return mutant, _first_case() or _first_test()
    except TimeoutError:
        return mutant, "time-out"
    except AssertionError as error:
        return mutant, f"assertion: {error}"
    except Exception as error:
        return mutant, f"{type(error).__name__}: {error}"


def _too_late(*_: object) -> None:
    raise TimeoutError


def _first_case() -> str:
    from pybpfvm.verifier.verify import Options, verify
    from tests.support.verifier_cases import corpus
    from tests.verifier.test_corpus import BUDGET_INSNS, disagreement

    for case in corpus():
        options = Options(budget_insns=BUDGET_INSNS, caps=case.caps)
        verdict = verify(case.program, case.object, case.profile, options=options)
        if disagreement(case, verdict):
            return f"case: {case.name}"
    return ""


def _first_test() -> str:
    import pytest

    failed: list[str] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid)

    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not kernel_bpf"]
    ignored = [f"--ignore={TESTS / name}" for name in ("test_corpus.py", "domains")]
    code = pytest.main([*options, *ignored, f"--rootdir={ROOT}", str(TESTS)], plugins=[Watch()])
    if failed:
        return f"test: {failed[0]}"
    return "" if code == pytest.ExitCode.OK else f"pytest: {code}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", default="", help="mutants whose line has this text")
    parser.add_argument("--sample", type=int, default=0, help="so many, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--allow", type=int, default=0, help="survivors that are no failure")
    args = parser.parse_args()
    chosen = [mutant for mutant in mutants() if args.only in str(mutant)]
    if args.sample:
        Random(args.seed).shuffle(chosen)
        chosen = chosen[: args.sample]
    start = time.monotonic()
    made: Counter[str] = Counter()
    noticed: Counter[str] = Counter()
    survivors: list[Mutant] = []
    with get_context("fork").Pool(args.j, maxtasksperchild=1) as pool:
        for mutant, by in pool.imap_unordered(fate, chosen, chunksize=1):
            made[mutant.kind] += 1
            noticed[mutant.kind] += bool(by)
            if not by:
                survivors.append(mutant)
            print(f"{'survives' if not by else 'noticed '} {mutant}  [{by}]", flush=True)
    print(f"\n{'kind':10} {'mutants':>8} {'noticed':>8}")
    for kind in sorted(made):
        print(f"{kind:10} {made[kind]:8} {noticed[kind]:8}")
    share = 100 * sum(noticed.values()) / max(sum(made.values()), 1)
    print(f"{'all':10} {sum(made.values()):8} {sum(noticed.values()):8}  {share:.1f} %")
    print(f"{time.monotonic() - start:.0f} s")
    if not args.only:
        text = f"{sum(noticed.values())} of {sum(made.values())} ({share:.1f} %)"
        if args.sample:
            text += f", chosen from {len(list(mutants()))}"
        keep(
            "mutate", "make mutate", [("rules switched off one at a time, noticed by a test", text)]
        )
    for mutant in sorted(survivors, key=lambda one: (one.file, one.line)):
        print(f"survives: {mutant}")
    return 1 if len(survivors) > args.allow else 0


if __name__ == "__main__":
    sys.exit(main())
