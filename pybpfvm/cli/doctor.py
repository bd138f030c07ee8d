"""`pybpfvm doctor`: what works on this machine, and what to do about each "no"."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pybpfvm import bpfsys
from pybpfvm.cli.common import EXAMPLES, print_json
from pybpfvm.helpers.declarations import DECLARATIONS
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.helpers.table import HELPERS
from pybpfvm.profiles import profile_named
from pybpfvm.report import SCHEMAS
from pybpfvm.report.terminal import table

# IORING_FEAT_* by bit.
_RING_FEATURES = (
    "SINGLE_MMAP",
    "NODROP",
    "SUBMIT_STABLE",
    "RW_CUR_POS",
    "CUR_PERSONALITY",
    "FAST_POLL",
    "POLL_32BITS",
    "SQPOLL_NONFIXED",
    "EXT_ARG",
    "NATIVE_WORKERS",
    "RSRC_TAGS",
    "CQE_SKIP",
    "LINKED_FILE",
    "REG_REG_RING",
    "RECVSEND_BUNDLE",
    "MIN_TIMEOUT",
    "RW_ATTR",
    "NO_IOWAIT",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `needed` says whether pybpfvm's main job depends on it."""

    what: str
    works: bool
    detail: str
    remedy: str = ""
    needed: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    parser.add_argument(
        "--helpers",
        nargs="?",
        const="",
        metavar="PROFILE",
        help="list an ABI's helpers by number instead, with C declarations for BPF requests; "
        "without PROFILE all helpers by name",
    )
    parser.add_argument(
        "--include",
        action="store_true",
        help="print the folder of our C headers instead, for clang's -I",
    )
    parser.add_argument(
        "--schemas",
        action="store_true",
        help="print the folder of the JSON Schemas of every --json document instead",
    )
    parser.add_argument(
        "--ring",
        nargs="?",
        const="",
        metavar="SETUP",
        help="describe a ring as this kernel lays it out instead, for `verify --ring`; SETUP is"
        " like entries=8,cq_entries=16,flags=single_issuer+defer_taskrun,mem=4096",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the command is asked for: its exit code."""
    if args.helpers is not None:
        _print_helpers(args.helpers)
        return 0
    if args.include:
        print(EXAMPLES / "include")
        return 0
    if args.schemas:
        print(SCHEMAS)
        return 0
    if args.ring is not None:
        _print_ring(args.ring)
        return 0
    findings = list(_findings())
    if args.json:
        print_json("doctor/1", {"findings": [asdict(finding) for finding in findings]})
    else:
        table(
            ("", "what", "detail"),
            (
                (
                    "ok" if f.works else "NO",
                    f.what,
                    f.detail + (f"\n→ {f.remedy}" if f.remedy and not f.works else ""),
                )
                for f in findings
            ),
        )
    return 0 if all(f.works for f in findings if f.needed) else 1


def _print_helpers(asked: str) -> None:
    """The helpers of a profile by number, or all of them by name."""
    if not asked:
        table(
            ("helper", "arguments", "runs", "what it does"),
            (
                (row.name, _arguments(row) or "-", _runs(row), row.doc)
                for row in sorted(HELPERS.values(), key=lambda row: row.name)
            ),
        )
        return
    profile = profile_named(asked, "--helpers")
    declared = DECLARATIONS if profile.ring is not None else {}
    table(
        ("number", "helper", "runs", "what it does"),
        (
            (number, declared.get(name, f"{name}({_arguments(row)})"), _runs(row), row.doc)
            for number, name in sorted(profile.helpers.items())
            for row in (HELPERS[name],)
        ),
    )


def _arguments(row: Helper) -> str:
    return ", ".join(arg.name for arg in row.args if arg is not ArgType.DONTCARE)


def _runs(row: Helper) -> str:
    return "yes" if row.impl else "no"


def _print_ring(asked: str) -> None:
    from pybpfvm.uring_backend.kernel.shape import measured
    from pybpfvm.uring_backend.loop import shape

    setup, mem_bytes = shape.parse_setup(asked)
    found, source = measured(shape.shape_of(setup, mem_bytes))
    print_json(shape.DOCUMENT, shape.document(found, source))


def _findings() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("Python", sys.version_info >= (3, 11), version, "use 3.11 or newer", needed=True)
    yield Finding("kernel", True, f"{platform.system()} {platform.release()} {platform.machine()}")
    yield _memory()
    yield _jit()
    yield from _ring()
    yield _bpf()
    yield _vmlinux()
    yield _clang()
    yield _llvm()
    yield _ubpf()
    for module, extra, purpose in (
        ("llvmlite", "llvm", "engine llvm"),
        ("capstone", "native", "disasm --native"),
        ("elftools", "debug", "local variables"),
        ("hypothesis", "dev", "property tests"),
    ):
        found = importlib.util.find_spec(module) is not None
        yield Finding(
            f"extra: {module}",
            found,
            purpose if found else f"not installed ({purpose})",
            f"pip install 'pybpfvm[{extra}]'",
        )


def _memory() -> Finding:
    from pybpfvm.errors import InputError
    from pybpfvm.memory import AddressSpace

    try:
        AddressSpace().close()
    except InputError as error:
        return Finding("address space", False, error.reason, error.remedy, needed=True)
    return Finding("address space", True, "two 4 GiB windows can be reserved", needed=True)


_MEMORY_REMEDY = "allow executable memory (SELinux execmem, seccomp)"


def _native() -> str | None:
    """Why machine code of ours can not run here, None if it can."""
    from pybpfvm.errors import InputError
    from pybpfvm.session.engines import jit_refusal

    refused = jit_refusal()
    if refused is None:
        from pybpfvm.jit.faults import fault_handler

        try:
            fault_handler()
        except InputError as error:
            refused = error.reason
    return refused


def _jit() -> Finding:
    refused = _native()
    return Finding(
        "jit",
        refused is None,
        refused or "executable pages and a fault handler can be had",
        f"{_MEMORY_REMEDY}; the interpreter runs everything",
    )


def _llvm() -> Finding:
    from importlib.util import find_spec

    found = find_spec("llvmlite") is not None
    refused = _native() if found else "llvmlite is not installed"
    return Finding(
        "llvm (engine llvm)",
        refused is None,
        refused or "llvmlite is installed, and what it compiles can run",
        f"{_MEMORY_REMEDY if found else 'pip install pybpfvm[llvm]'}; only --engine llvm needs it",
    )


def _ubpf() -> Finding:
    from pybpfvm.errors import InputError
    from pybpfvm.peers import library

    try:
        library.library()
    except InputError as error:
        remedy = f"{error.remedy}; only comparisons (--engine ubpf) need it"
        return Finding("libubpf (engine ubpf)", False, error.reason, remedy)
    return Finding("libubpf (engine ubpf)", True, library.found() or "")


def _ring() -> Iterator[Finding]:
    from pybpfvm.uring_backend.kernel import probe

    refused = probe.available()
    if refused is not None:
        remedy = refused.remedy or "use --backend sim, which needs no io_uring"
        yield Finding("io_uring (backend kernel)", False, refused.reason, remedy)
        return
    yield Finding("io_uring (backend kernel)", True, "a ring can be made")
    yield _liburing()
    found = probe.probe()
    missing = ", ".join(op.name for op in found.missing)
    yield Finding(
        "io_uring opcodes",
        not missing,
        f"{len(found.opcodes)} supported" + (f", without {missing}" if missing else ""),
        "programs that use these run with --backend sim",
    )
    yield Finding(
        "io_uring filters",
        found.filters,
        "the kernel registers filters of requests" if found.filters else "from Linux 7.0",
        "pybpfvm asks filters itself, in front of this kernel's ring, too",
    )
    names = [name for bit, name in enumerate(_RING_FEATURES) if found.features >> bit & 1]
    yield Finding("io_uring features", True, ", ".join(names).lower() or "none")


def _liburing() -> Finding:
    from pybpfvm.uring_backend.kernel import libring

    refused = libring.available()
    name = "liburing (backend liburing)"
    if refused is not None:
        remedy = f"{refused.remedy}; only --backend liburing needs it"
        return Finding(name, False, refused.reason, remedy)
    return Finding(name, True, libring.found() or "")


def _bpf() -> Finding:
    reason = bpfsys.available()
    return Finding(
        "bpf(2) (oracle for tests)",
        reason is None,
        reason or "programs and maps can be loaded",
        "run as root; only comparisons with the running kernel need it",
    )


def _vmlinux() -> Finding:
    try:
        with open("/sys/kernel/btf/vmlinux", "rb") as file:
            readable = len(file.read(4)) == 4
    except OSError as error:
        return Finding(
            "kernel BTF",
            False,
            error.strerror or str(error),
            "give --btf FILE where CO-RE needs it",
        )
    return Finding("kernel BTF", readable, "/sys/kernel/btf/vmlinux can be read")


def _clang() -> Finding:
    found = shutil.which("clang-19") or shutil.which("clang")
    return Finding(
        "clang (rebuild examples)",
        found is not None,
        found or "not found",
        "on Debian: apt-get install clang-19; committed objects work without it",
    )
