"""Filters in scenarios: `filters` before the first step and the step `filter`, on both rings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpfvm.cli import main
from pybpfvm.errors import InputError
from pybpfvm.filters.table import Scope
from pybpfvm.scenario import parse_bytes, run_scenario
from pybpfvm.scenario.filters import read_filters
from pybpfvm.session.hostring import BackendName
from tests.support.session_ring import SIM_AND_KERNEL, need_backend

ROOT = Path(__file__).parents[2]
OBJECT = ROOT / "examples/01_hello/prog.v3.bpf.o"
TEXT = f"""
object = "{OBJECT}"
abi = "iouring-v3"
filters = [
    {{ op = "openat", name = "no new files", on = "task", text = \"\"\"
        ld [16]
        jset #0x40, no      ; O_CREAT
        ret #1
    no: ret #0\"\"\" }},
    {{ op = "nop", text = "ret #1", pdu_size = 24, error = "EMSGSIZE" }},
]
files.poem = {{ text = "x" }}
user.poem = {{ path_of = "poem" }}
user.new = {{ path_of = "new" }}
steps = [
    {{ submit = [{{ op = "openat", fd = -100, addr = {{ block = "poem" }}, user_data = 1 }}] }},
    {{ wait = 1 }},
    {{ submit = [
        {{ op = "openat", fd = -100, addr = {{ block = "new" }}, op_flags = 0x41, user_data = 2 }},
    ] }},
    {{ submit = [{{ op = "nop", user_data = 3 }}] }},
    {{ filter = {{ op = "nop", text = "ret #0", deny_rest = true }} }},
    {{ submit = [{{ op = "nop", user_data = 4 }}] }},
    {{ submit = [{{ op = "fsync", fd = -1, user_data = 5 }}] }},
    {{ submit = [{{ op = "fsync", fd = -1, addr = 1, user_data = 6 }}] }},
]
expect.cqes = {{ 0 = [
    {{ user_data = 1 }},
    {{ user_data = 2, res = "-EACCES" }},
    {{ user_data = 3, res = 0 }},
    {{ user_data = 4, res = "-EACCES" }},
    {{ user_data = 5, res = "-EACCES" }},
    {{ user_data = 6, res = "-EINVAL" }},
] }}
"""


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_filters_hold(backend: BackendName) -> None:
    need_backend(backend)
    scenario = parse_bytes(TEXT.encode(), "s.toml", ROOT)
    outcome = run_scenario(scenario, backend=backend)
    assert not outcome.findings
    assert outcome.ok
    allowing = TEXT.replace('text = "ret #0", deny_rest', 'text = "ret #1", deny_rest')
    outcome = run_scenario(parse_bytes(allowing.encode(), "s.toml", ROOT), backend=backend)
    assert outcome.findings  # the check can fail


def test_the_account_says_who_denied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TEXT)
    assert main(["run", str(path)]) == 0
    out = capsys.readouterr().out
    assert "request 2 is denied by no new files (task)" in out
    assert "request 4 is denied by steps[4].filter (ring)" in out
    assert "request 5 is denied by DENY_REST of steps[4].filter (ring)" in out


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('text = "ret #0", deny', 'text = "rat #0", deny', "steps[4].filter.text, line 1"),
        ('op = "nop", text', 'op = "nap", text', "steps[4].filter.op"),
        ("deny_rest = true }", "deny_rest = 1 }", "steps[4].filter.deny_rest"),
        ("deny_rest = true }", 'on = "task" }', "steps[4].filter"),
        ('on = "task"', 'on = "tusk"', "filters[0].on"),
        ("pdu_size = 24", "pdu_size = 256", "filters[1].pdu_size"),
        ('text = "ret #1", pdu', "pdu", "filters[1]"),
        ('text = "ret #1", pdu', 'file = "none.cbpf", pdu', "none.cbpf"),
    ],
)
def test_mistakes_have_their_place(old: str, new: str, where: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError) as error:
        parse_bytes(TEXT.replace(old, new).encode(), "s.toml", ROOT)
    assert where in error.value.where


def test_a_refusal_that_was_not_expected_is_an_error_with_its_place() -> None:
    text = TEXT.replace(', error = "EMSGSIZE"', "")
    with pytest.raises(InputError, match="EMSGSIZE") as error:
        run_scenario(parse_bytes(text.encode(), "s.toml", ROOT))
    assert "filters[1]" in error.value.where
    text = TEXT.replace('pdu_size = 24, error = "EMSGSIZE"', 'error = "EMSGSIZE"')
    assert run_scenario(parse_bytes(text.encode(), "s.toml", ROOT)).findings


def test_a_file_of_filters(tmp_path: Path) -> None:
    (tmp_path / "deny.cbpf").write_text("ret #0\n")
    path = tmp_path / "f.toml"
    path.write_text('filters = [{ op = "read", file = "deny.cbpf", on = "task" }]')
    (spec,) = read_filters(path)
    assert (spec.wanted.name, spec.scope, len(spec.wanted.program)) == ("deny.cbpf", Scope.TASK, 1)
    path.write_text("filters = []\nother = 1\n")
    with pytest.raises(InputError, match="unknown key"):
        read_filters(path)
    path.write_text("")
    with pytest.raises(InputError, match="there are no filters"):
        read_filters(path)
