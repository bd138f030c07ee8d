"""C declarations say what the rows of the helpers say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.helpers.declarations import DECLARATIONS
from pybpfvm.helpers.proto import ArgType, RetType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.profiles.iouring_2021 import PROFILES_2021

HEADER = Path(__file__).resolve().parents[2] / "examples" / "include" / "iouring_bpf.h"
_SHAPE = re.compile(r"(?P<result>.*?)(?P<name>\w+)\((?P<parameters>.*)\)")
_NUMBERS = frozenset(
    {ArgType.CONST_SIZE, ArgType.CONST_SIZE_OR_ZERO, ArgType.CONST_ALLOC_SIZE_OR_ZERO}
)


def test_every_helper_of_the_ring_abis_is_declared_and_no_other() -> None:
    offered = {name for profile in PROFILES_2021 for name in profile.helpers.values()}
    assert set(DECLARATIONS) == offered


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_declaration_has_the_arguments_and_the_result_of_its_row(name: str) -> None:
    shape = _SHAPE.fullmatch(DECLARATIONS[name])
    assert shape is not None
    assert shape["name"] == name
    row = HELPERS[name]
    parameters = [] if shape["parameters"] == "void" else shape["parameters"].split(", ")
    wanted = [arg for arg in row.args if arg is not ArgType.DONTCARE]
    if parameters[-1:] == ["..."]:
        parameters[-1:] = ["u64 more"] * (len(wanted) - len(parameters) + 1)
    assert len(parameters) == len(wanted)
    for parameter, kind in zip(parameters, wanted, strict=True):
        if kind is not ArgType.ANYTHING:  # an address of user space is any number
            assert ("*" in parameter or parameter.startswith("void *")) is (kind not in _NUMBERS)
    assert (shape["result"] == "void ") is (row.ret is RetType.VOID)
    assert ("*" in shape["result"]) is (row.ret not in (RetType.VOID, RetType.INTEGER))


@pytest.mark.parametrize(
    ("profile", "number", "declared"),
    [
        ("iouring-v2", "164", "long iouring_queue_sqe(struct io_uring_bpf_ctx *ctx,"),
        ("iouring-v3", "172", "long io_uring_reap_cqe(struct io_uring_bpf_ctx *ctx, u32 cq,"),
        ("v3", "1", "void *map_lookup_elem(void *map, const void *key)"),
        ("xdp", "44", "xdp_adjust_head(PTR_TO_CTX, ANYTHING)"),
    ],
)
def test_doctor_lists_the_helpers_of_a_profile_by_number(
    capsys: pytest.CaptureFixture[str], profile: str, number: str, declared: str
) -> None:
    assert main(["doctor", "--helpers", profile]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row for row in rows if row.startswith(f"{number} ") and declared in row]
    numbers = [int(row.split()[0]) for row in rows if row[:1].isdigit()]
    assert numbers == sorted(numbers)


def test_doctor_names_the_option_of_a_profile_there_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--helpers", "v33"]) == 2
    assert "--helpers: no ABI profile is called 'v33'" in capsys.readouterr().err
