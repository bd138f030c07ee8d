"""Running ordinary programs once: context, packet, what is refused and what it says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.bits import s32
from pybpfvm.cli import main
from pybpfvm.errors import InputError, Trap, TrapKind, UnsupportedError
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from pybpfvm.profiles.ordinary import MAINLINE_HELPERS, profile_of_section, unsupported_type
from pybpfvm.session import Machine
from pybpfvm.session.engines import jit_refusal
from tests.examples.test_example_objects import loadable, mentions_of_machine_paths
from tests.support.fake_context import FakeContext

HERE = Path(__file__).parent
OBJECTS = sorted(HERE.glob("*.bpf.o"))
FRAME = bytes(12) + b"\x08\0\x45\0" + bytes(30)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def trap(machine: Machine, name: str) -> Trap:
    with pytest.raises(Trap) as caught:
        machine.load(HERE / "missing.bpf.o")[name].run(data=FRAME)
    return caught.value


def test_a_packet_pointer_is_the_true_address(machine: Machine) -> None:
    found = trap(machine, "past_the_end")
    assert found.kind is TrapKind.OUT_OF_BOUNDS
    assert found.addr is not None
    assert machine.memory.base <= found.addr < machine.memory.base + (1 << 32)
    assert found.region == "0 bytes past the end of packet data"


def test_a_missing_helper_is_named(machine: Machine) -> None:
    found = trap(machine, "shrink")
    assert found.kind is TrapKind.UNSUPPORTED
    assert "xdp_adjust_head" in str(found)


def test_cgroup_programs_do_not_change_packets(machine: Machine) -> None:
    assert trap(machine, "writes").kind is TrapKind.READ_ONLY


def test_a_context_field_is_read_only(machine: Machine) -> None:
    found = trap(machine, "no_data_meta_store")
    assert found.kind is TrapKind.CTX_ACCESS
    assert "writes len" in str(found)


def test_a_type_that_is_not_run_is_named(machine: Machine) -> None:
    with pytest.raises(UnsupportedError, match=r"BPF_PROG_TYPE_TRACING .section fentry/do_nothing"):
        machine.load(HERE / "missing.bpf.o")["entered"].run()


def test_mixed_types_run_each_as_its_own(machine: Machine) -> None:
    obj = machine.load(HERE / "classify.bpf.o")
    assert obj["look"].profile.name == "cgroup_skb"
    assert obj["rewrite"].profile.name == "sched_cls"
    obj["look"].run(data=FRAME)
    hidden = obj.maps["records"][15]
    obj["rewrite"].run(data=FRAME)
    whole = obj.maps["records"][0]
    assert isinstance(hidden, dict)
    assert isinstance(whole, dict)
    assert (hidden["len"], whole["len"]) == (len(FRAME) - 14, len(FRAME))


@pytest.mark.parametrize(
    ("size", "remedy"), [(0, "Ethernet"), (14, "Ethernet"), ((1 << 16) + 1, "Ethernet")]
)
def test_packets_of_no_use(machine: Machine, size: int, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        machine.load(HERE / "filter.bpf.o")["filter"].run(data=bytes(size))


def test_what_the_host_says_of_a_packet_must_be_right(machine: Machine) -> None:
    program = machine.load(HERE / "filter.bpf.o")["filter"]
    size = len(FRAME) - 14
    right = program.run(size.to_bytes(4, "little"), FRAME)
    assert right.ctx[:4] == size.to_bytes(4, "little")
    with pytest.raises(InputError, match=f"len is 5 .it is {size} for this packet"):
        program.run(b"\5\0\0\0", FRAME)
    with pytest.raises(InputError, match="at most 192"):
        program.run(bytes(193), FRAME)


def test_types_without_a_packet_take_none(machine: Machine) -> None:
    with pytest.raises(InputError, match="run on no packet"):
        machine.load(HERE / "state.bpf.o")["traced"].run(data=FRAME)


def test_repeated_runs_share_packet_and_state(machine: Machine) -> None:
    obj = machine.load(HERE / "parse.bpf.o")
    once = obj["parse"].run(data=FRAME)
    thrice = machine.load(HERE / "parse.bpf.o")["parse"].run(data=FRAME, repeat=3)
    assert (once.data[22], thrice.data[22]) == (255, 253)  # the TTL, less 1 each time
    assert thrice.insns > 2 * once.insns
    assert obj.globals["seen"] == 1


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(HERE / "parse.bpf.o"), "--prog", "parse", "--data", FRAME.hex()]
    assert main([*arguments, "--repeat", "2"]) == 0
    out = capsys.readouterr().out
    engine = "jit" if jit_refusal() is None else "interp"
    checks = "not verified, sandboxed" if engine == "jit" else "not verified"
    assert f"parse  (xdp, engine {engine}: {checks})" in out
    assert "data " + FRAME[:22].hex() + "fe" in out
    assert main(["run", str(HERE / "missing.bpf.o"), "--prog", "entered"]) == 3
    assert "BPF_PROG_TYPE_TRACING" in capsys.readouterr().err


def test_mixed_types_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(HERE / "missing.bpf.o")]) == 0
    out = capsys.readouterr().out
    assert "section tc is of sched_cls: the object mixes types" in out
    assert "no profile has a program type for section fentry/do_nothing" in out


@pytest.mark.parametrize(
    ("section", "profile"),
    [
        ("xdp", "xdp"),
        ("xdp.frags/devmap", "xdp"),
        ("xdp_prog", "xdp"),
        ("tc", "sched_cls"),
        ("tc/ingress", "sched_cls"),
        ("tcx/egress", "sched_cls"),
        ("netkit/peer", "sched_cls"),
        ("classifier", "sched_cls"),
        ("action", "sched_act"),
        ("socket", "socket_filter"),
        ("socket1", "socket_filter"),
        ("cgroup_skb/ingress", "cgroup_skb"),
        ("cgroup/skb", "cgroup_skb"),
        ("raw_tp/sched_switch", "raw_tracepoint"),
        ("tp/sched/sched_switch", "tracepoint"),
        ("kprobe/do_exit", "kprobe"),
        ("kretprobe.multi/vfs_*", "kprobe"),
        ("uprobe.s//bin/sh:main", "kprobe"),
        ("ksyscall/openat", "kprobe"),
        ("perf_event", "perf_event"),
        ("syscall", "syscall"),
    ],
)
def test_sections_of_libbpf(section: str, profile: str) -> None:
    found = profile_of_section(section)
    assert found is not None
    assert found.name == profile
    assert unsupported_type(section) is None


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("fentry.s/vfs_read", "TRACING"),
        ("tp_btf/sched_switch", "TRACING"),
        ("iter/task", "TRACING"),
        ("raw_tp.w/x", "RAW_TRACEPOINT_WRITABLE"),
        ("lsm_cgroup/bind", "LSM"),
        ("sockops", "SOCK_OPS"),
        ("cgroup/sock_create", "CGROUP_SOCK"),
        ("cgroup/connect4", "CGROUP_SOCK_ADDR"),
        ("struct_ops.s/init", "STRUCT_OPS"),
    ],
)
def test_sections_of_types_that_are_not_run(section: str, kind: str) -> None:
    assert unsupported_type(section) == f"BPF_PROG_TYPE_{kind}"
    found = profile_of_section(section)
    assert found is None or not found.runs


def test_helper_numbers_are_mainlines() -> None:
    assert {number: MAINLINE_NAMES[number] for number in MAINLINE_HELPERS} == MAINLINE_HELPERS
    assert len(MAINLINE_NAMES) == 212


def test_strings_are_compared(machine: Machine) -> None:
    program = machine.load(HERE / "state.bpf.o")["called"]
    assert s32(program.run(bytes(16) + b"counter\0").retval) == 1
    assert s32(program.run(bytes(16) + b"b\0").retval) == -4 - 2 - 1


def test_the_task_is_always_the_same() -> None:
    """Documented values: results do not depend on who runs the program."""
    with FakeContext() as ctx:
        assert ctx.run("get_current_pid_tgid") == 1 << 32 | 1
        assert ctx.run("get_current_uid_gid") == 0
        out = ctx.put(b"\xee" * 16)
        assert ctx.run("get_current_comm", out, 12) == 0
        assert ctx.get(16) == b"pybpfvm\0\0\0\0\0\xee\xee\xee\xee"
        assert ctx.run("get_current_comm", out, 4) == 0
        assert ctx.get(6) == b"pyb\0fv"


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_no_object_names_a_machine(path: Path) -> None:
    assert mentions_of_machine_paths(path) == []


@pytest.mark.skipif(shutil.which("clang-19") is None, reason="clang-19 is not installed")
def test_rebuilding_gives_the_committed_code(tmp_path: Path) -> None:
    subprocess.run([str(HERE / "build.sh"), str(tmp_path)], check=True, timeout=120)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in OBJECTS]
    for path in OBJECTS:
        fresh = loadable((tmp_path / path.name).read_bytes())
        assert fresh == loadable(path.read_bytes()), f"{path}: run tests/ordinary/build.sh"
