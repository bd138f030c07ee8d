"""Profiles of other packages: found by name, and refused with the entry point named."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.profiles import ENTRY_POINTS, PROFILES, all_profiles, profile_named

MINE = replace(PROFILES["iouring-v3"], name="mine")
TAKEN = PROFILES["iouring-v3"]
NOT_A_PROFILE = 5


@pytest.fixture(autouse=True)
def _fresh_list() -> Iterator[None]:
    all_profiles.cache_clear()
    yield
    all_profiles.cache_clear()


def offer(monkeypatch: pytest.MonkeyPatch, folder: Path, attribute: str, suffix: str) -> None:
    """An installed package that offers an attribute of this module."""
    listed = folder / f"x{suffix}"
    listed.mkdir()
    (listed / ("METADATA" if "dist" in suffix else "PKG-INFO")).write_text("Name: x\nVersion: 1\n")
    line = f"[{ENTRY_POINTS}]\nx = {__name__}:{attribute}\n"
    (listed / "entry_points.txt").write_text(line)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("suffix", ["-1.dist-info", ".egg-info"])
def test_an_offered_profile_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    offer(monkeypatch, tmp_path, "MINE", suffix)
    assert profile_named("mine") is MINE
    assert profile_named("iouring-v3") is TAKEN


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("TAKEN", "there is a profile iouring-v3 already"),
        ("NOT_A_PROFILE", "is not a"),
        ("MISSING", "can not be loaded: AttributeError"),
    ],
)
def test_a_bad_offer_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attribute: str, reason: str
) -> None:
    offer(monkeypatch, tmp_path, attribute, "-1.dist-info")
    with pytest.raises(InputError, match=reason) as refused:
        profile_named("mine")
    assert refused.value.where.startswith("entry point x = ")


def test_an_archive_of_packages_is_looked_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, tmp_path, "MINE", "-1.dist-info")
    archive = shutil.make_archive(str(tmp_path / "packages"), "zip", tmp_path)
    monkeypatch.setattr(sys, "path", [archive, *(p for p in sys.path if p != str(tmp_path))])
    assert profile_named("mine") is MINE
