"""ELF object -> BpfObject: the steps of the loader, in order.

Limits, beyond which an InputError says so: 32 MiB of file, 16 MiB of data sections, 16 MiB each
of .BTF and .BTF.ext, 524,288 instructions (in the object, and in all linked programs together),
4096 sections and maps, 131,072 symbols, 262,144 relocations. Within them memory stays below
256 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from pybpfvm.btf.types import Btf, BtfKind
from pybpfvm.errors import InputError
from pybpfvm.inputfile import read_input_file
from pybpfvm.loader.btfs import externs_undefined, read_btf_sections
from pybpfvm.loader.core import CoreResolver
from pybpfvm.loader.data import arena_of_variables, data_maps, unsupported_data
from pybpfvm.loader.elf import MAX_FILE_BYTES, SHN_UNDEF, STB_LOCAL, ElfObject, read_elf
from pybpfvm.loader.functions import Function, FunctionTable
from pybpfvm.loader.kallsyms import Kallsyms
from pybpfvm.loader.kconfig import Kconfig, KconfigVariables, running_kconfig
from pybpfvm.loader.ksyms import KernelSymbols, names_of_kernel
from pybpfvm.loader.lines import LineTable
from pybpfvm.loader.link import SlotBudget, link, reachable
from pybpfvm.loader.maps import PlacedMap, declared_maps
from pybpfvm.loader.relo import Body, MapTable, Relocator
from pybpfvm.loader.structops import struct_ops_of
from pybpfvm.loader.tags import exception_callbacks
from pybpfvm.loader.target import TargetBtf, chosen_target, default_target, kernel_of, loop_facts
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.detect_loop import detect_loop
from pybpfvm.program import BpfObject, MapType, Program, StructOps

MAX_LICENSE_BYTES = 128


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    target_btf: Btf | Callable[[str], Btf | None] | None = None,
    kconfig: Kconfig | None = None,
    symbols: Kallsyms | None = None,
    profile: Profile | None = None,
    name: str = "",
) -> BpfObject:
    """Load an ELF object from a path or from its bytes; `name` stands for the path in messages.

    `target_btf` is what CO-RE relocations are resolved against: a Btf, or a function that gets
    a type's name (without flavour) and returns the Btf to look in, None for none. By default the
    types of ring programs are the ABI's, all others the running kernel's. `kconfig` is what
    kconfig externs are taken from, `symbols` what addresses of externs without a type are; without
    them, the running kernel's where that is the target. `profile` says which kernel's functions
    an object that drives a ring is for; the one that it was built for without.

    Raises InputError, with section and offset, for whatever is malformed or beyond the limits.
    What is well-formed but not supported, or not there (functions and variables that the target's
    BTF does not have, kconfig values that are not set) is listed in `unsupported`; a program that
    needs it is left out.
    """
    if isinstance(source, bytes):
        data, path = source, name or "object"
    else:
        path = name or os.fspath(source)
        data = read_input_file(source, MAX_FILE_BYTES, where=name)
    target: TargetBtf
    if target_btf is None:
        target = default_target
    elif isinstance(target_btf, Btf):
        target = chosen_target(target_btf)
    else:
        target = target_btf
    elf = read_elf(data, path)
    return _assemble(elf, target, profile, kconfig, symbols, hashlib.sha256(data).hexdigest())


def _assemble(
    elf: ElfObject,
    target: TargetBtf,
    profile: Profile | None,
    kconfig: Kconfig | None,
    symbols: Kallsyms | None,
    sha256: str,
) -> BpfObject:
    btf, ext = read_btf_sections(elf)
    elf = externs_undefined(elf, btf)
    license_ = _license(elf)
    struct_ops = struct_ops_of(elf, btf)
    wanted = (s.name for s in elf.symbols if s.section == SHN_UNDEF and s.name)
    sections = (_told(section.name) for section in elf.sections if section.is_code)
    dialect = detect_loop(loop_facts(struct_ops, sections, wanted, btf))
    given, target = target, kernel_of(dialect, target, profile)
    if target is default_target:
        kconfig = kconfig if kconfig is not None else running_kconfig()
        symbols = symbols if symbols is not None else Kallsyms()
    asked = KconfigVariables(elf, btf, kconfig)
    placed = declared_maps(elf, btf) + data_maps(elf, btf)
    placed += [asked.placed] if asked.placed is not None else []
    functions = FunctionTable(elf)
    core = CoreResolver(elf, btf, ext, target)
    kernel = KernelSymbols(btf, target, symbols, built_in=target is not given)
    table = MapTable(placed, arena_of_variables(elf, placed))
    relocator = Relocator(elf, functions, table, core, kernel, asked)
    bodies = {function: relocator.body(function) for function in functions.all()}
    lines = LineTable(elf, btf, ext)
    called = frozenset(
        reference.target
        for function, body in bodies.items()
        for reference in body.references
        if reference.target != function
    )
    programs, left_out = _programs(elf, functions.programs(called), bodies, lines, license_, btf)
    attached = _attached(elf, struct_ops, {*(program.name for program in programs), *left_out})
    programs = [_as_callback(elf, program, attached) for program in programs]
    _check_slots(elf, placed, bodies)
    lines_left_out = [f"program {name} is left out: {why}" for name, why in left_out.items()]
    unsupported = [*functions.unsupported, *unsupported_data(elf), *lines_left_out]
    unsupported += _externs(elf, btf, kernel.resolved, asked)
    return BpfObject(
        elf.path,
        sha256,
        tuple(programs),
        tuple(found.spec for found in placed),
        license_,
        elf.big_endian,
        btf,
        tuple(dict.fromkeys(unsupported)),
        relocator.notes + core.notes,
        left_out,
        struct_ops,
        {**kernel.functions, **kernel.missing},
        kernel.variables,
        dialect,
    )


def _told(section: str) -> str:
    """What a section's name says of its programs: a `?` before it only keeps loaders from loading
    them unasked."""
    return section.removeprefix("?")


def _attached(
    elf: ElfObject, struct_ops: Sequence[StructOps], programs: Collection[str]
) -> dict[str, str]:
    """What each callback is used for (STRUCT/MEMBER), by name. InputError for what is no program,
    or used for two things, whose arguments differ."""
    found: dict[str, str] = {}
    for variable in struct_ops:
        for member, name in variable.programs.items():
            if name not in programs:
                raise InputError(
                    f"{variable.name}.{member} is {name!r}, which is no program of this object",
                    where=elf.path,
                    remedy="programs are global functions in a section of their own",
                )
            use = f"{variable.struct}/{member}"
            if found.setdefault(name, use) != use:
                raise InputError(
                    f"{variable.name}.{member} is {name!r}, which stands for {found[name]}, too",
                    where=elf.path,
                    remedy="write a program for each",
                )
    return found


def _as_callback(elf: ElfObject, program: Program, attached: Mapping[str, str]) -> Program:
    """The program with what it is used for, if the object says that. InputError where its section
    says that it is something else."""
    use = attached.get(program.name)
    if use is None:
        return program
    if not program.is_callback:
        raise InputError(
            f"{use} is {program.name!r}, whose section {program.section!r} says that it is no"
            " callback",
            where=elf.path,
            remedy=f'put it into SEC("struct_ops/{program.name}")',
        )
    return replace(program, attach_to=use)


def _programs(
    elf: ElfObject,
    mains: Sequence[Function],
    bodies: dict[Function, Body],
    lines: LineTable,
    license_: str,
    btf: Btf | None,
) -> tuple[list[Program], dict[str, str]]:
    """(linked programs, why others are left out, by name)."""
    budget = SlotBudget()
    programs = []
    left_out: dict[str, str] = {}
    names: set[str] = set()
    for main in mains:
        if main.name in names:
            raise InputError(
                f"a second program {main.name}", where=elf.where(main.section, main.start * 8)
            )
        names.add(main.name)
        callback = _exception_callback(main, bodies, lines, btf)
        externs = {
            extern: None
            for function in reachable(main, bodies, callback)
            for extern in bodies[function].externs
        }
        if externs:
            untold = (
                "; without BTF nothing says what that is (compile with -g)" if btf is None else ""
            )
            left_out[main.name] = f"it uses {', '.join(externs)}{untold}"
            continue
        programs.append(
            link(
                main,
                bodies,
                lines,
                budget,
                section=_told(elf.sections[main.section].name),
                license=license_,
                big_endian=elf.big_endian,
                where=elf.where(main.section, main.start * 8),
                callback=callback,
            )
        )
    return programs, left_out


def _exception_callback(
    main: Function, bodies: Mapping[Function, Body], lines: LineTable, btf: Btf | None
) -> Function | None:
    """The function that tags name as the exception callback of `main`, if it is there."""
    func_id = lines.func_type(main)
    names = exception_callbacks(btf, func_id) if btf is not None and func_id else ()
    found = [one for one in bodies if names and one is not main and one.name == names[0]]
    return found[0] if found else None


def _license(elf: ElfObject) -> str:
    section = elf.section("license")
    if section is None:
        return ""
    raw = bytes(section.data[: MAX_LICENSE_BYTES + 1]).split(b"\0")[0]
    if len(raw) > MAX_LICENSE_BYTES:
        raise InputError(
            f"a licence of more than {MAX_LICENSE_BYTES} bytes", where=elf.where(section, 0)
        )
    return raw.decode("utf-8", "replace")


def _check_slots(elf: ElfObject, placed: Sequence[PlacedMap], bodies: dict[Function, Body]) -> None:
    """What maps begin with is there: programs for program arrays, declared maps for the others."""
    maps = {found.spec.name for found in placed if found.spec.data is None}
    functions = {name for function in bodies for name in (function.name, *function.aliases)}
    for found in placed:
        known = functions if found.spec.type == MapType.PROG_ARRAY else maps
        for index, target in found.spec.slots.items():
            if target not in known:
                raise InputError(
                    f"map {found.spec.name}: initial value {index} is {target!r}, which the "
                    "object does not have",
                    where=elf.where(found.section, found.offset),
                )


def _externs(
    elf: ElfObject, btf: Btf | None, resolved: frozenset[str], asked: KconfigVariables
) -> list[str]:
    """A line for each undefined symbol, which the kernel or its configuration would define, but
    for those that are `resolved`, or have a value."""
    lines = []
    for symbol in elf.symbols:
        if symbol.name in resolved:
            continue
        if asked.offset(symbol.name) is not None and symbol.name not in asked.lacking:
            continue
        if symbol.section == SHN_UNDEF and symbol.name and symbol.binding != STB_LOCAL:
            kind = _extern_kind(symbol.name, btf)
            lacking = asked.lacking.get(symbol.name)
            lines.append(
                f"extern {symbol.name}: {kind}" + (f", which {lacking}" if lacking else "")
            )
    return lines


def _extern_kind(name: str, btf: Btf | None) -> str:
    if name.startswith(("LINUX_", "CONFIG_")):
        return "a kconfig value"
    kinds = [kind for known, kind in names_of_kernel(btf) if known == name]
    if btf is not None and not kinds:
        return "what another object has, which this one is to be linked with"
    return f"a {'function' if BtfKind.FUNC in kinds else 'variable or function'} of the kernel"
