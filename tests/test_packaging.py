"""The list of packages in setup.cfg, the links under pybpfvm/ and the disk agree."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("verifier", "helpers", "uring_backend", "examples")


def _config() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_every_package_on_disk_is_listed() -> None:
    listed = set(_config()["options"]["packages"].split())
    on_disk = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in (ROOT / "pybpfvm").rglob("__init__.py")
    }
    for name in LINKED:
        for init in (ROOT / name).rglob("__init__.py"):
            on_disk.add(".".join(("pybpfvm", *init.parent.relative_to(ROOT).parts)))
    assert listed == on_disk


@pytest.mark.parametrize("name", LINKED)
def test_link_leads_to_the_real_folder(name: str) -> None:
    link = ROOT / "pybpfvm" / name
    if not link.is_symlink():
        pytest.skip("this checkout has no symlinks")
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", LINKED)
def test_bare_import_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"import pybpfvm.{name}" in done.stderr


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, pybpfvm, pybpfvm.cli; "
        "heavy = {'elftools', 'lark', 'rich', 'ctypes'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What judging a small object does without: other engines, rings, processes, formats of others.
NEEDLESS = {
    "ctypes.util",
    "elftools",
    "importlib.metadata",
    "json",
    "lark",
    "multiprocessing",
    "pybpfvm.engine",
    "pybpfvm.events",
    "pybpfvm.image",
    "pybpfvm.jit",
    "pybpfvm.session.ring",
    "pybpfvm.session.witness",
    "pybpfvm.uring_backend",
    "pybpfvm.verifier.lints.watch",
    "pybpfvm.vm",
    "rich",
    "tomllib",
}


def test_judging_a_small_object_imports_little() -> None:
    code = (
        "import sys; from pybpfvm.cli import main; "
        "code = main(['verify', 'tests/ordinary/filter.bpf.o']); "
        f"needless = {NEEDLESS} & set(sys.modules); "
        "sys.exit(f'imported: {needless}' if needless else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("obj", ["tests/ordinary/filter.bpf.o", "examples/01_hello/prog.v3.bpf.o"])
def test_the_kernels_btf_is_not_read_for_programs_without_kfuncs(obj: str) -> None:
    """Reading it takes longer than all the rest."""
    code = (
        "import sys; from pybpfvm.cli import main; "
        f"code = main(['verify', {obj!r}]); "
        "from pybpfvm.loader.target import kernel_btf; "
        "sys.exit('BTF was read' if kernel_btf.cache_info().misses else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["pybpfvm.cli", "argparse", "pybpfvm.cli.verify", "struct"])
def test_ctrl_c_while_importing_is_answered_in_a_word(module: str) -> None:
    """Ctrl-C comes when `module` is about to be imported; what is imported later is not there."""
    code = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        f"sys.modules.pop({module!r}, None)\n"
        "sys.argv = ['pybpfvm', 'verify', 'tests/ordinary/filter.bpf.o']\n"
        "runpy.run_module('pybpfvm', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
