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
