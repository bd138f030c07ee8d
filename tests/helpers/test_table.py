"""The table itself: every number of every profile has a row, every row is well-formed."""

from __future__ import annotations

import pytest

from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.helpers.table import HELPERS
from pybpfvm.profiles.base import Profile
from pybpfvm.profiles.iouring_2021 import PROFILES_2021
from pybpfvm.profiles.iouring_x import X
from pybpfvm.profiles.loop_dialects import DIALECTS
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.profiles.ordinary import MAINLINE_HELPERS, ORDINARY

_SIZES = (ArgType.CONST_SIZE, ArgType.CONST_SIZE_OR_ZERO)
_SIZED = (ArgType.PTR_TO_MEM, ArgType.PTR_TO_MEM_OR_NULL, ArgType.PTR_TO_UNINIT_MEM)


@pytest.mark.parametrize("profile", [*PROFILES_2021, X, *ORDINARY], ids=lambda p: p.name)
def test_profiles_name_rows(profile: Profile) -> None:
    assert set(profile.helpers.values()) <= set(HELPERS)


def test_base_numbers_agree_with_the_profiles() -> None:
    for profile in ORDINARY:
        for number, name in profile.helpers.items():
            assert MAINLINE_NAMES[number] == name


def test_what_is_not_executable_is_known() -> None:
    ours = {name for profile in (*PROFILES_2021, X) for name in profile.helpers.values()}
    kernel = {profile.row_of(name) for profile in DIALECTS for name in profile.kfuncs}
    lacking = {"snprintf_btf", "per_cpu_ptr", "this_cpu_ptr"}
    runs = {*MAINLINE_HELPERS.values(), *ours, *kernel} - lacking
    assert {name for name, row in HELPERS.items() if row.impl is not None} == runs


def test_every_helper_of_mainline_has_a_row() -> None:
    assert {name for number, name in MAINLINE_NAMES.items() if number} <= set(HELPERS)


@pytest.mark.parametrize("row", HELPERS.values(), ids=lambda row: row.name)
def test_rows_are_well_formed(row: Helper) -> None:
    assert HELPERS[row.name] is row
    assert row.doc.endswith(".")
    assert len(row.args) <= 5
    assert ArgType.DONTCARE not in row.args
    for this, following in zip(row.args, (*row.args[1:], None), strict=False):
        if this in _SIZED:
            assert following in _SIZES, "each memory argument is followed by its size"
