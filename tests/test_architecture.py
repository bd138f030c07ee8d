"""ARCHITECTURE.md and README name only paths that exist; docs name no machine. What is public has a
docstring."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path

import pytest

import pybpfvm

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "ARCHITECTURE.md", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_PATH = re.compile(r"`([\w.]+(?:/[\w.*-]+)*/?)`")
_TOP = {p.name for p in ROOT.iterdir()} - {"build"}  # where commands write


def _paths(doc: Path) -> list[str]:
    found = _PATH.findall(doc.read_text())
    return [path for path in found if path.split("/")[0] in _TOP and ("/" in path or "." in path)]


def test_the_map_names_paths() -> None:
    assert len(_paths(ROOT / "ARCHITECTURE.md")) > 20


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_paths_exist(doc: Path) -> None:
    missing = [path for path in _paths(doc) if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for doc in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", doc.read_text()):
            if not (doc.parent / target).exists():
                broken.append(f"{doc.name}: {target}")
    assert not broken


def _without_docstring(owner: object, module: str) -> Iterator[str]:
    """What is public in a module or class of it and has no docstring, inherited ones included."""
    for name, value in list(vars(owner).items()):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if name.startswith("_"):
            continue
        if isinstance(value, property | cached_property):
            if not inspect.getdoc(getattr(owner, name)):
                yield f"{owner}.{name}"
        elif inspect.isfunction(value) or inspect.isclass(value):
            if value.__module__ != module:
                continue
            if not inspect.getdoc(getattr(owner, name)):
                yield f"{module}.{value.__qualname__}"
            if inspect.isclass(value):
                yield from _without_docstring(value, module)


def test_what_is_public_has_a_docstring() -> None:
    found: list[str] = []
    looked_at = 0
    for one in pkgutil.walk_packages(pybpfvm.__path__, "pybpfvm."):
        if one.name.endswith("__main__"):
            continue
        try:
            module = import_module(one.name)
        except ModuleNotFoundError as missing:
            if str(missing.name).startswith("pybpfvm"):
                raise
            continue  # it needs an extra
        looked_at += 1
        found += _without_docstring(module, one.name)
    assert looked_at > 300
    assert not found
