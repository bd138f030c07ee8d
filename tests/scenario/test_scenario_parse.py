"""Scenario files: what is read; whatever is wrong ends in one InputError with its place."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.scenario import parse, parse_bytes
from pybpfvm.scenario.model import (
    CqeSpec,
    Fill,
    Joined,
    Raw,
    Ref,
    RefKind,
    Sleep,
    Submit,
    Typed,
    Wait,
    Words,
)

ROOT = Path(__file__).resolve().parents[2]
HEAD = 'object = "x.o"\nprograms = ["p"]\n[user.b]\nu32 = 1\n'


def read(text: str, base: Path = ROOT) -> object:
    return parse_bytes(text.encode(), "t.toml", base)


def test_a_full_scenario_is_read() -> None:
    scenario = parse_bytes(
        b"""
object = "x.o"
abi = "iouring-v2"
programs = ["p", "", "q"]
[ring]
entries = 4
cq_entries = [16, 32]
files = ["out", -1]
[user]
b = { fill = 0xAE, size = 10 }
t = { timespec_ns = 1_500_000_000 }
w = { s32 = [-1, 7] }
j = { parts = [{ text = "ab" }, { u64 = { block = "b", offset = 4 } }] }
s = { struct = "job", fields = { buffer = { block = "b" }, list = [1, 2] } }
[fds]
out = { open = "o", flags = ["creat", "rdwr"] }
rd = { pipe = "wr" }
[[steps]]
submit = [
    { prog = "q", user_data = { block = "b" }, flags = ["link", "async"], cq = 2 },
    { op = "read", fd = "rd", addr = { block = "b" }, len = 3, rw_flags = 8 },
]
[[steps]]
wait = 2
cq = 1
timeout = "1.5 ms"
[[steps]]
sleep = "3 us"
[expect]
hang = true
cqes = { 0 = [{ res = "-ETIME", times = 2 }, { user_data = "any" }], 1 = { set = [] } }
maps = { arr = { 5 = -2, 0x10 = { a = 1 } } }
""",
        "t.toml",
        ROOT,
    )
    assert scenario.programs == ("p", None, "q")
    assert scenario.ring.files == ("out", None)
    assert scenario.blocks["b"] == Fill(0xAE, 10)
    assert scenario.blocks["t"] == Words(8, (1, 500_000_000))
    assert scenario.blocks["w"] == Words(4, (-1, 7))
    to_b = Ref(RefKind.BLOCK, "b", 4)
    assert scenario.blocks["j"] == Joined((Raw(b"ab"), Words(8, (to_b,))))
    typed = scenario.blocks["s"]
    assert isinstance(typed, Typed)
    assert typed.fields == {"buffer": Ref(RefKind.BLOCK, "b"), "list": (1, 2)}
    submit = scenario.steps[0].action
    assert isinstance(submit, Submit)
    bpf, read_ = submit.sqes
    assert (bpf.opcode, bpf.cq_idx, bpf.fields["flags"]) == (None, 2, 4 | 16)
    assert bpf.fields["off"] == Ref(RefKind.PROG, "q")
    assert (read_.opcode, read_.fields["op_flags"]) == (22, 8)
    assert scenario.steps[1].action == Wait(2, 1, 1_500_000)
    assert scenario.steps[2].action == Sleep(3_000)
    assert scenario.expect.hang
    queue = scenario.expect.cqs[0]
    assert queue.cqes == (CqeSpec(res=-62), CqeSpec(res=-62), CqeSpec())
    assert not scenario.expect.cqs[1].ordered
    assert scenario.expect.maps[0].elements == ((5, -2), (16, {"a": 1}))


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "t.toml", "'object' is missing"),
        ('objct = "x"', "t.toml", "'object' is missing (is 'objct' meant for it?)"),
        ("x = [", "t.toml", "not TOML"),
        ('object = "x"\nobjekt = 1', "t.toml", "unknown key 'objekt'"),
        ('object = "x"\n[ring]\nentrys = 1', "t.toml: ring", "did you mean 'entries'?"),
        ('object = "x"\n[ring]\nentries = -1', "ring.entries", "not between"),
        ('object = "x"\n[ring]\nentries = "8"', "ring.entries", "an integer is needed"),
        ('object = "x"\n[ring]\nfiles = ["o"]', "ring.files", "no descriptor is called 'o'"),
        (HEAD + '[user.c]\nu32 = { block = "bb" }', "user.c", "did you mean 'b'?"),
        (HEAD + "[user.c]\nu32 = 4294967296", "user.c.u32[0]", "not between"),
        (HEAD + "[user.c]\nu8 = [1, 300]", "user.c.u8[1]", "not between"),
        (HEAD + "[user.c]\nzero = 0", "user.c.zero", "not between"),
        (HEAD + "[user.c]\nzero = 999999999999", "user.c.zero", "not between"),
        (HEAD + "[user.c]\nzero = 200000000\n[user.d]\nzero = 200000000", "user", "in all"),
        (HEAD + "[user.c]\nzero = 1\ntext = 'a'", "user.c", "exactly one of"),
        (HEAD + "[user.c]\n", "user.c", "nothing"),
        (HEAD + "[user.c]\ntxt = 'a'", "user.c", "did you mean 'text'?"),
        (HEAD + "[user.c]\nbytes = 'zz'", "user.c.bytes", "not hexadecimal"),
        (HEAD + "[user.c]\nfile = 'not-there'", "user.c.file", "can not be read"),
        (HEAD + '[user.c]\nfile = "a\\u0000b"', "user.c.file", "can not be read"),
        (HEAD + "[user.c]\nfill = 1", "user.c", "'size' is missing"),
        (HEAD + "[fds.f]\nopen = ''", "fds.f", "needs the name of a file"),
        (HEAD + "[fds.f]\nopn = 'x'", "fds.f", "did you mean 'open'?"),
        (HEAD + "[fds.f]\npipe = 'f'", "fds", "defined twice"),
        (HEAD + "[fds.f]\nopen = 'a'\nflags = ['rw']", "fds.f.flags", "unknown name 'rw'"),
        (HEAD + "[[steps]]\n", "steps[0]", "nothing"),
        (HEAD + "[[steps]]\nwate = 1", "steps[0]", "did you mean 'wait'?"),
        (HEAD + "[[steps]]\nwait = 1\nsleep = 1", "steps[0]", "wait and sleep"),
        (HEAD + "[[steps]]\nwait = 1\ntimeout = '5 min'", "timeout", "is no duration"),
        (HEAD + "[[steps]]\nsleep = 'inf s'", "sleep", "too long"),
        (HEAD + "[[steps]]\nsleep = '-1 s'", "sleep", "is no duration"),
        (HEAD + "[[steps]]\nsleep = 'nan s'", "sleep", "is no duration"),
        (HEAD + "[[steps]]\nsubmit = [{}]", "submit[0]", "op is missing"),
        (HEAD + "[[steps]]\nsubmit = [{ op = 'raed' }]", "submit[0]", "did you mean 'read'?"),
        (HEAD + "[[steps]]\nsubmit = [{ op = 'nop', prog = 'p' }]", "submit[0]", "belongs to"),
        (HEAD + "[[steps]]\nwait = 1\ncq = 1", "steps[0].cq", "CQ 1 of a ring with CQ 0 only"),
        (HEAD + "[expect.counts]\n1 = 0", "expect.counts.1", "CQ 1 of a ring with CQ 0 only"),
        (
            HEAD + "[ring]\ncq_entries = [8, 8]\n[expect.cqes]\n5 = []",
            "t.toml: expect.cqes.5",
            "CQ 5 of a ring with 3 CQs, 0 to 2",
        ),
        (
            HEAD + "[[steps]]\nsubmit = [{ op = 'nop', fd = 'out' }]",
            "steps[0].submit[0]",
            "no descriptor is called 'out'",
        ),
        (HEAD + "[[steps]]\nsubmit = [{ prog = 'p', off = 1 }]", "submit[0]", "second time"),
        (HEAD + "[[steps]]\nsubmit = [{ prog = 'p', usr_data = 1 }]", "submit[0]", "'user_data'?"),
        (HEAD + "[[steps]]\nsend = 'x'\ntext = 'a'", "steps[0]", "no peer is called 'x'"),
        (HEAD + "[[steps]]\nregister = [1]", "register[0]", "a program's name"),
        (HEAD + "[[steps]]\nunregister = true\nerror = 'EWHAT'", "error", "unknown name 'EWHAT'"),
        (HEAD + "[expect]\ntrap = 'NUL'", "expect.trap", "did you mean 'NULL'?"),
        (HEAD + "[expect.cqes]\nx = []", "expect.cqes", "is no CQ number"),
        (HEAD + "[expect.cqes]\n0 = [{ ud = 1 }]", "cqes.0[0]", "unknown key 'ud'"),
        (HEAD + "[expect.cqes]\n0 = { set = [{ times = 300 }] }", "cqes.0", "256 at most"),
        (HEAD + "[expect.cqes]\n0 = [{ res = 1.5 }]", "cqes.0[0].res", "not a float"),
        (HEAD + "[expect.maps]\narr = 5", "maps.arr", "an array of elements"),
        (HEAD + "[expect.maps]\narr = [1979-05-27]", "maps.arr[0]", "not a date or time"),
        (HEAD + "[expect.memory.q]\nu8 = 1", "expect.memory", "no block is called 'q'"),
        (HEAD + '[faults]\nshared = ["b", "q"]', "faults.shared[1]", "no block is called 'q'"),
        (HEAD + '[faults]\nswarm = true\nshared = ["q"]', "faults.shared[0]", "no block"),
        (HEAD + "[faults]\nreaped = [0, 1]", "faults.reaped[1]", "CQ 1 of a ring with CQ 0 only"),
        (
            HEAD + "[ring]\ncq_entries = [16]\n[faults]\nswarm = true\nreaped = [7]",
            "faults.reaped[0]",
            "CQ 7 of a ring with 2 CQs, 0 to 1",
        ),
        (
            HEAD + '[faults]\nplan = ["run#1=write:q+0:00"]',
            "faults: run#1=write:q+0:00",
            "no block is called 'q'",
        ),
        (HEAD + '[faults]\nplan = ["run#2=reap:3"]', "faults: run#2=reap:3", "CQ 3 of a ring"),
        (HEAD + "[expect]\noverflow = true", "expect.overflow", "not a boolean"),
        (HEAD + "[user.c]\nu64 = " + "9" * 5000, "t.toml", "not TOML"),
        (HEAD + "x = " + "[" * 5000, "t.toml", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert place in caught.value.where
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'object = "\xe9"')
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * ((4 << 20) + 1))
    for path in (tmp_path / "none.toml", tmp_path, latin, big):
        with pytest.raises(InputError) as caught:
            parse(path)
        assert str(path) in str(caught.value)


def test_damaged_scenarios_end_in_input_errors_only() -> None:
    """Cut, swap and double pieces of the examples' scenarios, 3000 times."""
    seed = 20260
    rng = random.Random(seed)
    sources = [path.read_bytes() for path in sorted(ROOT.glob("examples/*/scenario.toml"))]
    accepted, placeless = 0, []
    for turn in range(3000):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(data)), rng.randint(1, 12)
            match rng.randrange(4):
                case 0:
                    del data[at : at + length]
                case 1:
                    data[at:at] = data[at : at + length]
                case 2:
                    data[at] = rng.randrange(256)
                case _:
                    data[at:at] = rng.choice([b"[", b"]", b"{", b"-1", b'"', b"99999999999", b"="])
            if not data:
                data += b"x"
        try:
            parse_bytes(bytes(data), "damaged.toml", ROOT)
            accepted += 1
        except InputError as error:
            if not error.where:
                placeless.append(f"seed {seed}, turn {turn}: {error}")
    assert placeless == []
    assert 0 < accepted < 3000


def test_the_documented_example_is_a_scenario() -> None:
    text = (ROOT / "docs" / "scenarios.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(example)["programs"] == ["hello"]
    assert parse_bytes(example.encode(), "docs", ROOT).programs == ("hello",)
