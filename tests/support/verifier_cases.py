"""The verifier's corpus: cases in tests/data/verifier/*.toml, as values. README.md there says how
they are written; nothing here judges them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pybpfvm.fuzz.lines import subprogs_of
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind as InsnKind
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.btf_typed import BTF_TYPED
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.program import BpfObject, MapSpec, MapType, Program
from pybpfvm.verifier.privileges.privilege import ALL, Capabilities, parse_capabilities
from pybpfvm.verifier.verdict import Kind, Rule
from tests.support.attach_targets import with_kernel_ids
from tests.support.verifier_btf import BTF, INT, STRUCTS, VALUES, with_types

DIRECTORY = Path(__file__).parents[1] / "data" / "verifier"
REFUSED = "; REFUSED"

_VERDICTS = ("accept", "reject", "unsupported")
_CASE_KEYS = frozenset(_VERDICTS) | frozenset(
    ("name", "type", "section", "setup", "code", "kernel", "row", "license", "options", "btf")
)
_LABEL = re.compile(r"^\s*[\w.]+:\s*")
_OWN_STRUCT = re.compile(r"\[own (\w+)\]")


_PROFILES = {**PROFILES, **{one.name: one for one in BTF_TYPED}}


class CaseError(Exception):
    """A case that is written wrong: names the file and the case."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A verdict: "accept", "reject" (by one of `rules`, at one of `pcs`, none:
    nowhere) or "unsupported" (`feature`)."""

    verdict: str
    rules: tuple[Rule, ...] = ()
    kind: Kind | None = None
    pcs: tuple[int, ...] = ()
    feature: str = ""


@dataclass(frozen=True, slots=True)
class KernelAnswer:
    """What the running kernel is expected to say; `why` where that is not what we say."""

    verdict: str  # "accept", "reject", or "" where it has no say
    pcs: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One program with what verification must answer. `row`: of the soundness catalogue."""

    name: str
    file: str
    profile: Profile
    program: Program
    object: BpfObject
    expected: Expected
    kernel: KernelAnswer
    row: str = ""
    caps: Capabilities = ALL

    @property
    def id(self) -> str:
        """A name for test reports."""
        return f"{self.file}: {self.name}"

    @property
    def runnable(self) -> bool:
        """Whether the program can be run here: it needs no objects or functions of a kernel."""
        insns = self.program.insns
        calls_kernel = any(insn.spec.kind is InsnKind.CALL_KFUNC for insn in insns)
        judged_only = any(spec.type in _JUDGED_ONLY for spec in self.object.maps)
        ours = self.profile.name in PROFILES and self.profile.runs
        return ours and not (calls_kernel or judged_only)


@cache
def corpus() -> tuple[Case, ...]:
    """All cases of all files. Raises CaseError."""
    setups, maps = _common()["setup"], common_maps()
    cases: list[Case] = []
    for path in sorted(DIRECTORY.glob("*.toml")):
        if path.name != "common.toml":
            with path.open("rb") as file:
                content = tomllib.load(file)
            for row in content["case"]:
                cases.append(_case(path.stem, content, row, setups, maps))
    names = [case.id for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise CaseError(f"names used twice: {', '.join(sorted(twice))}")
    return tuple(cases)


@cache
def common_maps() -> tuple[MapSpec, ...]:
    """The maps that every case may name."""
    return tuple(_map(name, row) for name, row in _common()["maps"].items())


@cache
def _common() -> dict[str, Any]:
    with (DIRECTORY / "common.toml").open("rb") as file:
        return tomllib.load(file)


def _maps_of(text: str, maps: tuple[MapSpec, ...]) -> tuple[MapSpec, ...]:
    """The maps without those at their end that no program runs here with, unless the text names
    one of these."""
    judged_only = [one.name for one in maps if one.type in _JUDGED_ONLY]
    if any(f"map[{name}]" in text for name in judged_only):
        return maps
    return tuple(one for one in maps if one.type not in _JUDGED_ONLY)


_JUDGED_ONLY = (MapType.ARENA, MapType.USER_RINGBUF)


def _map(name: str, row: Mapping[str, Any]) -> MapSpec:
    return MapSpec(
        name,
        MapType[row["type"]],
        row.get("key", 0),
        row.get("value", 0),
        row["entries"],
        flags=row.get("flags", 0),
        btf_key_type_id=INT if "holds" in row and row["holds"] != ".bss" else 0,
        btf_value_type_id=VALUES[row["holds"]] if "holds" in row else 0,
        map_extra=row.get("extra", 0),
    )


def _case(
    file: str,
    content: Mapping[str, Any],
    row: Mapping[str, Any],
    setups: Mapping[str, str],
    maps: tuple[MapSpec, ...],
) -> Case:
    where = f"{file}: {row.get('name', '(no name)')}"
    unknown = set(row) - _CASE_KEYS
    if unknown or "name" not in row or "code" not in row:
        raise CaseError(f"{where}: unknown keys {sorted(unknown)}, or no name or code")
    profile_name = row.get("type", content.get("type", "socket_filter"))
    profile = _PROFILES.get(profile_name)
    if profile is None:
        raise CaseError(f"{where}: no profile is called {profile_name}")
    setup = setups[row["setup"]] if "setup" in row else ""
    text = f"{setup}\n{row['code']}"
    names = profile.helpers if profile.ring is not None else MAINLINE_NAMES
    insns = assemble(
        with_ids(text),
        where=where,
        calls={name: number for number, name in names.items()},
        maps={spec.name: index for index, spec in enumerate(maps)},
    )
    section = row.get("section")
    if section is None:
        of_file = content.get("section") if "type" not in row else None
        section = of_file or profile.own_section
    if profile.section_rule(section) is None:
        raise CaseError(f"{where}: section {section} is not of {profile_name}")
    program = Program(
        "case",
        section,
        insns,
        subprogs=subprogs_of(insns),
        license=row.get("license", "GPL"),
    )
    typed = row.get("btf", content.get("btf", False))
    if typed:
        others = [] if typed is True else [typed] if isinstance(typed, str) else typed
        program = with_types(program, *others)
    expected = _expected(where, row, _marked_pcs(where, text, insns))
    return Case(
        row["name"],
        file,
        profile,
        program,
        BpfObject(
            f"{file}.toml",
            "",
            (program,),
            _maps_of(text, maps),
            btf=BTF if typed else None,
            license="GPL",
        ),
        expected,
        _kernel(where, row, profile, expected),
        row.get("row", ""),
        _caps(row),
    )


def program_of(
    text: str,
    *,
    where: str,
    type_name: str = "sched_cls",
    typed: bool = True,
    profile: Profile | None = None,
    section: str | None = None,
) -> tuple[Program, BpfObject, Profile]:
    """A program of an ordinary type in text, which may name the common maps."""
    maps = common_maps()
    insns = assemble(
        with_ids(text),
        where=where,
        calls={name: number for number, name in MAINLINE_NAMES.items()},
        maps={spec.name: index for index, spec in enumerate(maps)},
    )
    profile = PROFILES[type_name] if profile is None else profile
    section = profile.sections[0].prefix if section is None else section
    program = Program("case", section, insns, subprogs=subprogs_of(insns), license="GPL")
    if typed:
        program = with_types(program)
    btf = BTF if typed else None
    obj = BpfObject(where, "", (program,), _maps_of(text, maps), btf=btf, license="GPL")
    return program, obj, profile


def with_ids(text: str) -> str:
    """The text with ids for names of the kernel's, and of the program's own structs."""
    return with_kernel_ids(_OWN_STRUCT.sub(lambda match: str(STRUCTS[match[1]]), text))


def _marked_pcs(where: str, text: str, insns: tuple[Insn, ...]) -> tuple[int, ...]:
    """The pcs of the lines that end in the REFUSED mark."""
    pcs, pc = [], 0
    for insn in insns:
        pcs.append(pc)
        pc += insn.slots
    index, marked = 0, []
    for line in text.splitlines():
        if not _LABEL.sub("", line.partition(";")[0]).strip():
            continue
        if REFUSED in line and index < len(pcs):
            marked.append(pcs[index])
        index += 1
    if index != len(insns):
        raise CaseError(f"{where}: {index} lines, {len(insns)} insns")
    return tuple(marked)


def _expected(where: str, row: Mapping[str, Any], pcs: tuple[int, ...]) -> Expected:
    verdicts = [key for key in _VERDICTS if key in row]
    if len(verdicts) != 1:
        raise CaseError(f"{where}: exactly one of accept, reject, unsupported")
    verdict = verdicts[0]
    if verdict == "accept":
        return Expected("accept")
    if verdict == "unsupported":
        return Expected("unsupported", pcs=pcs, feature=row["unsupported"])
    said = row["reject"]
    rules = said["rule"] if isinstance(said["rule"], list) else [said["rule"]]
    return Expected("reject", tuple(Rule(rule) for rule in rules), Kind(said["kind"]), pcs)


def _caps(row: Mapping[str, Any]) -> Capabilities:
    """The capabilities of the loader."""
    return parse_capabilities(row.get("options", {}).get("caps", "bpf,perfmon"))


def _kernel(
    where: str, row: Mapping[str, Any], profile: Profile, expected: Expected
) -> KernelAnswer:
    said = row.get("kernel")
    if profile.ring is not None or not _caps(row).bpf:
        return KernelAnswer("", why="the running kernel has no such programs")
    if said is not None:
        if not said.get("why"):
            raise CaseError(f"{where}: kernel = without why")
        return KernelAnswer(said["verdict"], (), said["why"])
    if expected.verdict == "unsupported":
        raise CaseError(f"{where}: unsupported needs kernel = {{verdict, why}}")
    return KernelAnswer(expected.verdict, expected.pcs)
