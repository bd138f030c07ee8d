"""Programs as inputs: a line that says what surrounds the program, then its instructions.

    near xdp 37 12\\n<instructions of 8 bytes>

The words are the style, the program type, the attach type, and the seed of what its runs get. The
style names the maps that instructions refer to by number, too.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from pybpfvm.errors import InputError
from pybpfvm.fuzz import raw_programs, typed_programs, visible
from pybpfvm.fuzz.lines import Line, damaged, lines_of, linked, subprogs_of
from pybpfvm.fuzz.mutation import mutate
from pybpfvm.fuzz.target import without_chunks
from pybpfvm.isa.codec import check_fields, decode, encode
from pybpfvm.isa.disasm import format_program
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import Kind
from pybpfvm.profiles import PROFILES
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.ordinary import ORDINARY
from pybpfvm.program import BpfObject, MapSpec, Program

MAX_PROGRAM_BYTES = 8 * 4096
_HEADER = re.compile(rb"([a-z]+) ([a-z_0-9]{1,40}) (\d{1,5}) (\d{1,9})\n")
_TRIES = 400
_DAMAGES_OF_MUTATIONS = (1, 1, 1, 2, 3)

# What programs of a style are made of, and the maps that they name by number.
#   valid    accepted by construction; all registers come from a map value, and go back to it
#   near     typed pointers, bounds, loops, calls; most damaged in one small way
#   typed    the same of all program types, with what each has of its own: some need a kernel
#   hostile  instructions with any fields, jumps anywhere, wild pointers
STYLES: dict[str, tuple[MapSpec, ...]] = {
    "valid": (visible.VALUES_MAP,),
    "near": typed_programs.MAPS,
    "typed": typed_programs.MAPS,
    "hostile": raw_programs.PLAIN_MAPS,
}
_HOSTILE_FAMILIES = ("noise", "hostile", "pairs", "branches", "lost")


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """An input that was read. `runnable`: its style promises that runs need no kernel."""

    style: str
    profile: Profile
    seed: int
    insns: tuple[Insn, ...]

    @property
    def runnable(self) -> bool:
        """Whether runs need nothing of a kernel."""
        return self.style != "typed" and self.profile.runs

    def object(self) -> BpfObject:
        """An object with the program alone."""
        insns = self.insns
        program = Program(
            "fuzzed", self.profile.own_section, insns, subprogs=subprogs_of(insns), license="GPL"
        )
        return BpfObject("fuzzed", "", (program,), STYLES[self.style], license="GPL")

    def data(self) -> bytes:
        """As an input."""
        profile = self.profile
        head = f"{self.style} {profile.name} {profile.attach_type} {self.seed}\n"
        return head.encode() + encode(self.insns)

    def listing(self) -> str:
        """The program in the words of kernel logs."""
        return "\n".join(format_program(self.insns, style="kernel"))


def read(data: bytes) -> ProgramInput:
    """The program of an input. Raises InputError for what is none."""
    found = _HEADER.match(data)
    if found is None:
        raise InputError(
            "no line that says what it is", where="input", remedy="see docs/fuzzing.md"
        )
    style, name = found[1].decode(), found[2].decode()
    if style not in STYLES or name not in PROFILES:
        raise InputError(f"style {style}, program type {name}", where="input")
    profile = PROFILES[name]
    wanted = (one for one in (profile, *profile.variants) if one.attach_type == int(found[3]))
    profile = next(wanted, profile)
    if len(data) - found.end() > MAX_PROGRAM_BYTES:
        raise InputError(f"a program of {len(data) - found.end()} bytes", where="input")
    insns = decode(data[found.end() :], where="input")
    if not insns:
        raise InputError("a program without instructions", where="input")
    return ProgramInput(style, profile, int(found[4]), insns)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which programs to generate: of one of `styles`, of the program type (None: any), with the
    feature of typed programs ("": any)."""

    styles: tuple[str, ...] = ("near",)
    type_name: str | None = None
    feature: str = ""

    def __post_init__(self) -> None:
        for style in self.styles:
            if style not in STYLES:
                raise InputError(f"no style is called {style!r}", remedy=", ".join(STYLES))
        known = sorted(profile.name for profile in ORDINARY)
        if self.type_name is not None and self.type_name not in known:
            raise InputError(
                f"no programs of type {self.type_name!r} are generated", remedy=", ".join(known)
            )

    @property
    def runs(self) -> bool:
        """Whether programs of the type can be run here."""
        return self.type_name is None or PROFILES[self.type_name].runs

    def program(self, seed: int) -> ProgramInput:
        """The program of a seed. Raises InputError if none of very many has the feature."""
        style = self.styles[seed % len(self.styles)]
        for attempt in range(_TRIES):
            mixed = seed if attempt == 0 else zlib.crc32(f"{seed}.{attempt}".encode())
            made, features = _generated(style, self.type_name, mixed)
            if not self.feature or self.feature in features:
                return made
        raise InputError(
            f"no program of style {style} has the feature {self.feature!r}",
            remedy="features are: " + ", ".join(sorted(features_of(200))),
        )


def _generated(style: str, type_name: str | None, seed: int) -> tuple[ProgramInput, frozenset[str]]:
    if style in ("near", "typed"):
        made = typed_programs.generate(seed, type_name, all_types=style == "typed")
        return ProgramInput(style, made.profile, seed % 1000, made.program.insns), made.features
    profile = PROFILES[type_name or "socket_filter"]
    if style == "valid":
        insns = visible.generate(seed).program.insns
    else:
        family = _HOSTILE_FAMILIES[seed % len(_HOSTILE_FAMILIES)]
        insns = encodable(raw_programs.generate(seed, family, 1).object.programs[0].insns)
    return ProgramInput(style, profile, seed % 1000, insns), frozenset()


def encodable(insns: Sequence[Insn]) -> tuple[Insn, ...]:
    """The instructions as bytes can say them: fields that a row does not use are 0, and what is
    out of range else is 0 too."""
    return tuple(insn if _encodes(insn) else _plain(insn) for insn in insns)


def _encodes(insn: Insn) -> bool:
    try:
        check_fields(insn)
    except InputError:
        return False
    return True


def _plain(insn: Insn) -> Insn:
    used = {name: getattr(insn, name) for name in insn.spec.fields}
    made = Insn(insn.spec, **used)
    return made if _encodes(made) else Insn(insn.spec)


def features_of(programs: int) -> frozenset[str]:
    """The features that so many typed programs have among them."""
    found: set[str] = set()
    for seed in range(programs):
        found |= typed_programs.generate(seed, all_types=bool(seed % 2)).features
    return frozenset(found)


def mutated(data: bytes, seed: int) -> bytes:
    """A program with small faults, or with what bytes can do to instructions."""
    random = Random(f"mutated {seed}")
    try:
        made = read(data)
    except InputError:
        return mutate(data, seed, MAX_PROGRAM_BYTES)
    if random.random() < 0.1:
        return replace(made, seed=random.randrange(1000)).data()
    changed = damage_insns(random, made.insns)
    return data if changed is None else replace(made, insns=changed).data()


def damage_insns(random: Random, insns: Sequence[Insn]) -> tuple[Insn, ...] | None:
    """The instructions with some faults, or None where they could not be encoded."""
    lines = lines_of(insns)
    for _ in range(random.choice(_DAMAGES_OF_MUTATIONS)):
        if random.random() < 0.2:
            lines = _moved(random, lines)
        else:
            lines, _ = damaged(random, lines)
    return linked(lines) or None


def _moved(random: Random, lines: list[Line]) -> list[Line]:
    """A few lines once more, somewhere else; labels stay where they are."""
    start = random.randrange(len(lines))
    piece = [line for line in lines[start : start + random.randint(1, 6)] if line.insn is not None]
    at = random.randrange(len(lines))
    return [*lines[:at], *piece, *lines[at:]]


def smaller_insns(insns: Sequence[Insn]) -> Iterator[tuple[Insn, ...]]:
    """Programs with less in them: without some lines, then with 0 for single numbers."""
    lines = lines_of(insns)
    places = [at for at, line in enumerate(lines) if line.insn is not None]
    for start, end in without_chunks(len(places)):
        gone = set(places[start:end])
        left = linked([line for at, line in enumerate(lines) if at not in gone])
        if left:
            yield left
    for at, insn in enumerate(insns):
        for simpler in _simpler(insn):
            yield (*insns[:at], simpler, *insns[at + 1 :])


def _simpler(insn: Insn) -> Iterator[Insn]:
    if insn.spec.kind in (Kind.CALL, Kind.CALL_LOCAL, Kind.ATOMIC) or not insn.imm:
        return
    for value in (0, 1, insn.imm // 2):
        if abs(value) < abs(insn.imm):
            simpler = replace(insn, imm=value)
            if _encodes(simpler):
                yield simpler


def smaller(data: bytes) -> Iterator[bytes]:
    """See Target.smaller."""
    try:
        made = read(data)
    except InputError:
        for start, end in without_chunks(len(data)):
            yield data[:start] + data[end:]
        return
    for insns in smaller_insns(made.insns):
        yield replace(made, insns=insns).data()
    if made.seed:
        yield replace(made, seed=0).data()


def files(data: bytes) -> dict[str, bytes]:
    """The program as text that `pybpfvm asm` takes, and as bytes."""
    try:
        made = read(data)
    except InputError:
        return {}
    head = (
        f"; {made.style}, {made.profile.title}, section {made.profile.own_section}",
        *(f"; map {number}: {spec}" for number, spec in enumerate(STYLES[made.style])),
    )
    text = "\n".join((*head, *format_program(made.insns), ""))
    return {"program.s": text.encode(), "program.bin": encode(made.insns)}
