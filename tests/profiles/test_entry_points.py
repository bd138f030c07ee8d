"""Profiles of other packages: found by name, and refused with the entry point named."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint

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


def offer(monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    point = EntryPoint("x", f"{__name__}:{attribute}", ENTRY_POINTS)

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [point] if group == ENTRY_POINTS else []

    def load(_: EntryPoint) -> object:
        return globals()[attribute]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", load)


def test_an_offered_profile_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "MINE")
    assert profile_named("mine") is MINE
    assert profile_named("iouring-v3") is TAKEN


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("TAKEN", "there is a profile iouring-v3 already"),
        ("NOT_A_PROFILE", "is not a"),
        ("MISSING", "can not be loaded: KeyError"),
    ],
)
def test_a_bad_offer_is_refused(
    monkeypatch: pytest.MonkeyPatch, attribute: str, reason: str
) -> None:
    offer(monkeypatch, attribute)
    with pytest.raises(InputError, match=reason) as refused:
        profile_named("mine")
    assert refused.value.where.startswith("entry point x = ")
