"""ARCHITECTURE.md and README name only paths that exist; docs name no machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "ARCHITECTURE.md", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_PATH = re.compile(r"`([\w.]+(?:/[\w.*-]+)*/?)`")
_TOP = {p.name for p in ROOT.iterdir()}


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
