"""Rule mutation: switch each rule of the verifier off, one at a time; some test must notice.

`make mutate`, or `python -m tests.verifier.mutate [-j N] [--only TEXT] [--sample N] [--again LOG]
[--first LOG]`. A mutant is the verifier with one statement changed:

    refusal    a refusal is not raised
    cover      the comparison of states says that a difference does not matter
    precision  a number that a decision hangs on is not marked
    forget     what an instruction makes invalid is not forgotten
    gap        a feature that has no rules is not named

All cases and tests run once unchanged, to learn which of them execute the statement of which
mutant. Those then judge the mutant, cases of the corpus first; tests that take longer
than `--slowest` seconds are not asked. What a run prints is a LOG. `--again` asks of those that
survived there, and of those that it does not know; the others count as noticed. `--first` asks of
all, but first what noticed a mutant there.

Prints a table and the survivors; exit code 1 if there are more of them than `--allow`. Survivors
that mutate_equivalent.toml lists change no verdict, for the reason given there: they do not count.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import signal
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.support.evidence import keep
from tests.support.verifier_cases import corpus

ROOT = Path(__file__).parents[2]
VERIFIER = ROOT / "verifier"
# Tests of verdicts. The corpus is asked directly; the domains have mutants of their own.
TESTS = (
    "tests/verifier",
    "tests/report/test_rulebook.py",
    "tests/session/test_witness.py",
    "tests/session/test_judging.py",
    "tests/ordinary/test_replace.py",
)
NOT_ASKED = (
    "tests/verifier/domains",
    "tests/verifier/test_corpus.py",
    "tests/verifier/test_mutation.py",
)
TIMEOUT_S = 120
_YIELDING = frozenset({"structure.py", "newer.py", "capabilities.py", "fields.py"})
_FORGETTING = frozenset({"forget_packet", "_release", "release", "invalidate"})
EQUIVALENT = Path(__file__).parent / "mutate_equivalent.toml"
_TEXT_CHARS = 150
# A line of a log: fate, kind, file, line, text, what noticed it.
_LOGGED = re.compile(r"(survives|noticed ) \w+ +(\S+?):\d+: (.*)  \[(.*)\]$")
_UNJUDGED = frozenset({"contract_parse.py", "loadcheck.py"})  # no verdicts come from here


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed statement: `kind` as above, `line` from 1 in `file` of the verifier. `text` says
    which one it is, wherever it moves: its function, the condition it stands under, its
    beginning."""

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
        for node, text in _statements(ast.parse(path.read_text()), ""):
            kind = _kind(node, path.name)
            if kind:
                file = str(path.relative_to(VERIFIER))
                yield Mutant(kind, file, node.lineno, text[:_TEXT_CHARS].rstrip())


def _statements(node: ast.AST, function: str) -> Iterator[tuple[ast.stmt, str]]:
    """Every statement below `node`, in order, with its text."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt) and not isinstance(child, ast.FunctionDef | ast.ClassDef):
            under = ""
            if isinstance(node, ast.If):
                other = "" if child in node.body else "not "
                under = f"if {other}{ast.unparse(node.test)}: "
            yield child, f"{function}: {under}{' '.join(ast.unparse(child).split())}"
        inner = f"{child.name}" if isinstance(child, ast.FunctionDef) else function
        yield from _statements(child, inner)


def equivalents(known: Sequence[Mutant]) -> dict[Mutant, str]:
    """The mutants that change no verdict, with the reason. Raises AssertionError for a row that is
    of none of the `known`, or of several."""
    reasons: dict[Mutant, str] = {}
    for row in tomllib.loads(EQUIVALENT.read_text())["equivalent"]:
        of_row = [one for one in known if one.file == row["file"] and row["text"] in one.text]
        assert len(of_row) == 1, f"{row['file']}: {row['text']}: {len(of_row)} mutants"
        reasons[of_row[0]] = row["because"]
    return reasons


def _logged(log: str) -> dict[tuple[str, str], str]:
    """What noticed each mutant, "" if nothing did, by file and text."""
    fates: dict[tuple[str, str], str] = {}
    for line in Path(log).read_text().splitlines():
        found = _LOGGED.match(line)
        if found:
            fate, file, text, by = found.groups()
            fates[file, text] = by if fate == "noticed " else ""
    return fates


def _kind(node: ast.AST, file: str) -> str:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
        if name == "unsupported":
            return "gap"
        made = not name[:1].isupper()  # by a function that makes a refusal
        return "refusal" if made or name == "Refused" else ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):
        return "refusal" if file in _YIELDING else ""
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
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):
                nothing = ast.YieldFrom(ast.Tuple([], ast.Load()))  # still a generator
                return ast.copy_location(ast.Expr(nothing), node)
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


class _Probes(ast.NodeTransformer):
    """Reports each statement that has a mutant, before it is executed."""

    def __init__(self, file: str, numbers: Mapping[Mutant, int]) -> None:
        self.file = file
        self.numbers = numbers

    def visit(self, node: ast.AST) -> Any:
        kind = _kind(node, Path(self.file).name)
        if not kind or not isinstance(node, ast.stmt):
            return self.generic_visit(node)
        for mutant, number in self.numbers.items():
            if (mutant.kind, mutant.file, mutant.line) == (kind, self.file, node.lineno):
                (probe,) = ast.parse(f"__import__('sys').reached({number})").body
                return [probe, node]
        return node


class _Changed(SourceFileLoader):
    """Loads a module of the verifier with its tree changed."""

    def __init__(self, name: str, path: str, change: ast.NodeTransformer) -> None:
        super().__init__(name, path)
        self.change = change

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.fix_missing_locations(self.change.visit(ast.parse(self.get_data(path))))
        return compile(tree, path, "exec")


class _Finder(MetaPathFinder):
    """Finds the modules of the verifier that are to be changed, by the change of each file."""

    def __init__(self, changes: Mapping[str, ast.NodeTransformer]) -> None:
        self.changes = {_module(file): (file, change) for file, change in changes.items()}
        assert not self.changes.keys() & sys.modules.keys(), "imported already"

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As importlib's."""
        if name not in self.changes:
            return None
        file, change = self.changes[name]
        return spec_from_loader(name, _Changed(name, str(VERIFIER / file), change))


def _module(file: str) -> str:
    return "pybpfvm.verifier." + file.removesuffix(".py").replace("/", ".")


@dataclass(frozen=True, slots=True)
class Judged:
    """A mutant with the cases (by number) and tests (by id, the quick ones first) that execute its
    statement. `before` is what noticed it in an earlier run."""

    mutant: Mutant
    cases: Sequence[int]
    tests: Sequence[str]
    before: str = ""


def judged(
    chosen: Sequence[Mutant], slowest: float, before: Mapping[tuple[str, str], str]
) -> list[Judged]:
    """Runs all cases and tests once, unchanged: what does not execute a statement can not notice
    that it is gone. Tests that take longer than `slowest` seconds are left out. Raises
    AssertionError if one fails. In a process of its own."""
    _silent()
    numbers = {mutant: number for number, mutant in enumerate(chosen)}
    by_number: dict[int, set[Any]] = defaultdict(set)
    now: list[Any] = [None]
    setattr(sys, "reached", lambda number: by_number[number].add(now[0]))  # noqa: B010
    files = {mutant.file for mutant in chosen}
    sys.meta_path.insert(0, _Finder({file: _Probes(file, numbers) for file in files}))
    _without_screen()
    wrong = _first_case(None, now)
    assert not wrong, wrong
    seconds: dict[str, float] = defaultdict(float)
    failed: list[str] = []

    class Watch:
        def pytest_runtest_logstart(self, nodeid: str) -> None:
            now[0] = nodeid

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            seconds[report.nodeid] += report.duration
            if report.failed:
                failed.append(report.nodeid)

    _pytest(Watch(), "--timeout=0")
    assert not failed, failed
    quick = {nodeid for nodeid, took in seconds.items() if took <= slowest}
    return [
        Judged(
            mutant,
            sorted(by for by in by_number[number] if isinstance(by, int)),
            sorted(quick & by_number[number], key=seconds.__getitem__),
            before.get((mutant.file, mutant.text), ""),
        )
        for mutant, number in numbers.items()
    ]


def fate(one: Judged) -> tuple[Judged, str]:
    """What noticed the mutant: a case of the corpus, a test, a time-out; "" if nothing did.

    In a process of its own.
    """
    mutant = one.mutant
    _silent()
    # Of the processor's time; SIGALRM is pytest-timeout's, and waits while `verify` explores.
    signal.signal(signal.SIGPROF, _too_late)
    signal.setitimer(signal.ITIMER_PROF, TIMEOUT_S)
    try:
        sys.meta_path.insert(0, _Finder({mutant.file: _Change(mutant)}))
        if mutant.kind == "cover":
            _without_screen()
        return one, _as_before(one) or _first_case(one.cases) or _first_test(one.tests)
    except TimeoutError:
        return one, "time-out"
    except AssertionError as error:
        return one, f"assertion: {error}"
    except Exception as error:
        return one, f"{type(error).__name__}: {error}"


def _as_before(one: Judged) -> str:
    """What noticed the mutant in an earlier run, if it does again."""
    kind, _, name = one.before.partition(": ")
    if kind == "case":
        cases = corpus()
        return _first_case([number for number in one.cases if cases[number].name == name])
    return _first_test([nodeid for nodeid in one.tests if kind == "test" and nodeid == name])


def _without_screen() -> None:
    """Every pair of states is compared: the screen only spares comparisons, and would hide from
    the tests what these do."""
    from pybpfvm.verifier.pruning.liveness import Liveness
    from pybpfvm.verifier.pruning.screen import Screen
    from pybpfvm.verifier.states.state import State

    screened = Screen.__init__

    def untested(screen: Screen, live: Liveness, pc: int, state: State) -> None:
        screened(screen, live, pc, state)
        screen.first = lambda _: True

    setattr(Screen, "__init__", untested)  # noqa: B010
    setattr(Screen, "passes", lambda *_: True)  # noqa: B010


def _silent() -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)


def _too_late(*_: object) -> None:
    raise TimeoutError


def _first_case(numbers: Sequence[int] | None, now: list[Any] | None = None) -> str:
    """The first case, of those with these numbers, with another verdict than it should have; the
    number of each goes to `now`."""
    if numbers is not None and not numbers:
        return ""
    from pybpfvm.verifier.verify import Options, verify
    from tests.verifier.test_corpus import BUDGET_INSNS, disagreement

    cases = corpus()
    for number in range(len(cases)) if numbers is None else numbers:
        case = cases[number]
        if now is not None:
            now[0] = number
        options = Options(budget_insns=BUDGET_INSNS, caps=case.caps)
        verdict = verify(case.program, case.object, case.profile, options=options)
        if disagreement(case, verdict):
            return f"case: {case.name}"
    return ""


def _first_test(nodeids: Sequence[str]) -> str:
    """The first of these tests that fails, asked in this order."""
    place = {nodeid: number for number, nodeid in enumerate(nodeids)}
    failed: list[str] = []

    class Watch:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            items[:] = [item for item in items if item.nodeid in place]
            items.sort(key=lambda item: place[item.nodeid])

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid)

    if not nodeids:
        return ""
    files = sorted({nodeid.partition("::")[0] for nodeid in nodeids})
    code = _pytest(Watch(), "-x", f"--timeout={TIMEOUT_S // 2}", paths=files)
    if failed:
        return f"test: {failed[0]}"
    return "" if code == pytest.ExitCode.OK else f"pytest: {code}"


def _pytest(plugin: object, *options: str, paths: Sequence[str] = TESTS) -> int:
    always = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ignored = [f"--ignore={ROOT / name}" for name in NOT_ASKED]
    wanted = [str(ROOT / path) for path in paths]
    return pytest.main(
        [*always, *options, *ignored, f"--rootdir={ROOT}", *wanted], plugins=[plugin]
    )


_RULES = "rules switched off one at a time, noticed by a test"


def _share(noticed: Counter[str], made: Counter[str]) -> str:
    """How many of those made were noticed."""
    seen = sum(noticed[kind] for kind in made)
    return f"{seen} of {made.total()} ({100 * seen / max(made.total(), 1):.1f} %)"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__)
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--only", action="append", default=[], help="mutants whose line has this text (or another)"
    )
    parser.add_argument("--again", metavar="LOG", help="but those noticed there")
    parser.add_argument("--first", metavar="LOG", help="what noticed a mutant there is asked first")
    parser.add_argument("--sample", type=int, default=0, help="so many, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slowest", type=float, default=1, help="seconds of a test that is asked")
    parser.add_argument("--allow", type=int, default=0, help="survivors that are no failure")
    return parser.parse_args()


def _chosen(args: argparse.Namespace, known: Sequence[Mutant]) -> list[Mutant]:
    texts = args.only or [""]
    chosen = [mutant for mutant in known if any(text in str(mutant) for text in texts)]
    if args.again:
        fates = _logged(args.again)
        chosen = [one for one in chosen if not fates.get((one.file, one.text))]
    if args.sample:
        Random(args.seed).shuffle(chosen)
        chosen = chosen[: args.sample]
    return chosen


def main() -> int:
    args = _arguments()
    known = list(mutants())
    reasons = equivalents(known)
    chosen = _chosen(args, known)
    start = time.monotonic()
    made: Counter[str] = Counter()
    noticed: Counter[str] = Counter()
    equivalent: Counter[str] = Counter()
    survivors: list[Judged] = []
    wrong: list[Mutant] = []
    corpus()  # read once, for all processes: it needs no module that has a mutant
    with get_context("fork").Pool(args.j, maxtasksperchild=1) as pool:
        jobs = pool.apply(judged, (chosen, args.slowest, _logged(args.first) if args.first else {}))
        print(f"which run what: {time.monotonic() - start:.0f} s", flush=True)
        for one, by in pool.imap_unordered(fate, jobs, chunksize=1):
            mutant = one.mutant
            made[mutant.kind] += 1
            noticed[mutant.kind] += bool(by)
            because = reasons.get(mutant, "")
            if by and because:
                wrong.append(mutant)
            elif because:
                equivalent[mutant.kind] += 1
                by = f"equivalent, because {because}"
            elif not by:
                survivors.append(one)
            print(
                f"{'noticed ' if by and not because else 'survives'} {mutant}  [{by}]", flush=True
            )
    print(f"\n{'kind':10} {'mutants':>8} {'noticed':>8} {'equivalent':>11}")
    for kind in sorted(made):
        print(f"{kind:10} {made[kind]:8} {noticed[kind]:8} {equivalent[kind]:11}")
    print(f"all: {_share(noticed, made)}, {equivalent.total()} equivalent")
    print(f"{time.monotonic() - start:.0f} s")
    if args.again and not args.only and not args.sample:
        before = Counter(one.kind for one in known if one not in chosen)
        made, noticed = made + before, noticed + before
        print(f"with those noticed before: {_share(noticed, made)}")
    if made.total() == len(known):
        gaps = Counter({"gap": made["gap"]})
        rows = [
            (_RULES, _share(noticed, made - gaps)),
            ("of the others, can not change a verdict", str((equivalent - gaps).total())),
            ("features without rules not named, noticed by a test", _share(noticed, gaps)),
        ]
        keep("mutate", "make mutate", rows)
    for one in sorted(survivors, key=lambda one: (one.mutant.file, one.mutant.line)):
        asked = f"{len(one.cases)} cases, {len(one.tests)} tests"
        print(f"survives: {one.mutant}  [{asked} execute it]")
    for mutant in wrong:
        print(f"listed as equivalent, but noticed: {mutant}")
    return 1 if wrong or len(survivors) > args.allow else 0


if __name__ == "__main__":
    sys.exit(main())
