"""The adapter for libubpf: over a stand-in of ours, and over the real one where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pybpfvm.engine import RunEnvironment
from pybpfvm.errors import InputError, Trap, TrapKind, UnsupportedError
from pybpfvm.events import Event, HelperCalled
from pybpfvm.helpers.context import HelperContext
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.peers import library
from pybpfvm.peers.ubpf import UbpfEngine
from pybpfvm.program import MapSpec, MapType
from pybpfvm.session.engines import chosen
from tests.support.vm import BASE_HELPERS, Machine

SOURCE = Path(__file__).parents[1] / "data/ubpf/fake_ubpf.c"
COUNTS = MapSpec("counts", MapType.ARRAY, 4, 8, 4)

ADD_UP = "r0 = 40\nr0 += 2\nexit"
LOOP = "r0 = 0\nr0 += 1\nif r0 != 1000 goto -2\nexit"
THROUGH_A_MAP = """
  *(u64 *)(r10 - 8) = 2
  r2 = r10
  r2 += -8
  r1 = map[counts] ll
  call map_lookup_elem
  if r0 == 0 goto +3
  *(u64 *)(r0 + 0) = 77
  r0 = *(u64 *)(r0 + 0)
  exit
  r0 = 0
  exit
"""
CONTEXT = "r0 = *(u64 *)(r1 + 8)\nr0 += 1\n*(u64 *)(r1 + 0) = r0\nexit"


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stand-in, compiled."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is not installed: the stand-in for libubpf is not compiled")
    made = tmp_path_factory.mktemp("ubpf") / "libubpf.so"
    command = [gcc, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return str(made)


@pytest.fixture(params=("fake", "real"))
def ubpf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A libubpf: the stand-in, then that of the system."""
    if request.param == "fake":
        monkeypatch.setenv(library.VARIABLE, request.getfixturevalue("fake"))
    else:
        try:
            library.library()
        except InputError as error:
            pytest.skip(error.reason)
    return


def _engine(machine: Machine, *, trusted: bool) -> UbpfEngine:
    return UbpfEngine(
        machine.image, machine.helpers, machine.environment, trusted=lambda _: trusted
    )


def _r0(machine: Machine, *, trusted: bool = False, budget_insns: int = 100_000) -> int:
    with machine, _engine(machine, trusted=trusted) as engine:
        ctx = machine.ctx_region.start
        return engine.run(machine.program, ctx, budget_insns=budget_insns).r0


@pytest.mark.usefixtures("ubpf")
@pytest.mark.parametrize("trusted", [False, True])
class TestWhatProgramsDo:
    def test_arithmetic(self, trusted: bool) -> None:
        assert _r0(Machine(ADD_UP), trusted=trusted) == 42

    def test_helpers_and_maps_are_ours(self, trusted: bool) -> None:
        machine = Machine(THROUGH_A_MAP, maps=(COUNTS,))
        with machine, _engine(machine, trusted=trusted) as engine:
            assert engine.run(machine.program, machine.ctx_region.start).r0 == 77
            held = machine.image.maps["counts"].host_lookup((2).to_bytes(4, "little"))
            assert int.from_bytes(held, "little") == 77

    def test_the_context_is_at_its_true_address(self, trusted: bool) -> None:
        ctx = bytes(8) + (9).to_bytes(8, "little")
        machine = Machine(CONTEXT, ctx=ctx)
        with machine, _engine(machine, trusted=trusted) as engine:
            assert engine.run(machine.program, machine.ctx_region.start).r0 == 10
            after = machine.image.memory.read(machine.ctx_region.start, 8)
            assert int.from_bytes(after, "little") == 10

    def test_helper_calls_are_observed(self, trusted: bool) -> None:
        seen: list[Event] = []
        environment = RunEnvironment(observer=seen.append, random_u32=lambda: 5)
        machine = Machine("call get_prandom_u32\nexit", environment=environment)
        assert _r0(machine, trusted=trusted) == 5
        (event,) = seen
        assert isinstance(event, HelperCalled)
        assert (event.helper, event.result, event.pc) == ("get_prandom_u32", 5, -1)

    def test_what_a_helper_raises_comes_out(self, trusted: bool) -> None:
        def broken(_: HelperContext, *args: int) -> int:
            raise ZeroDivisionError("ours")

        helper = Helper("broken", (ArgType.ANYTHING,), RetType.INTEGER, broken, "")
        machine = Machine("call 7\nexit", helpers={**BASE_HELPERS, 7: helper})
        with pytest.raises(ZeroDivisionError, match="ours"):
            _r0(machine, trusted=trusted)

    def test_runs_one_after_the_other(self, trusted: bool) -> None:
        machine = Machine(LOOP)
        with machine, _engine(machine, trusted=trusted) as engine:
            for _ in range(3):
                result = engine.run(machine.program, machine.ctx_region.start)
                assert (result.r0, result.insns) == (1000, 0)
            engine.close()
            engine.close()


@pytest.mark.usefixtures("ubpf")
class TestWhatIsStopped:
    def test_an_access_outside(self) -> None:
        with pytest.raises(Trap) as caught:
            _r0(Machine("r1 = 64\nr0 = *(u64 *)(r1 + 8)\nexit"))
        assert (caught.value.kind, caught.value.addr) == (TrapKind.NULL, 72)

    def test_a_map_handle_is_no_memory(self) -> None:
        text = "r1 = map[counts] ll\nr0 = *(u64 *)(r1 + 0)\nexit"
        with pytest.raises(Trap) as caught:
            _r0(Machine(text, maps=(COUNTS,)))
        assert caught.value.kind is TrapKind.NOT_MEMORY

    def test_a_bad_helper_argument(self) -> None:
        text = "r1 = 1\nr2 = r10\nr2 += -8\ncall map_lookup_elem\nexit"
        with pytest.raises(Trap) as caught:
            _r0(Machine(text, maps=(COUNTS,)))
        assert caught.value.kind is TrapKind.BAD_HELPER_ARG

    def test_a_program_without_end(self) -> None:
        with pytest.raises(Trap) as caught:
            _r0(Machine("r0 = 0\ngoto -1\nexit"), budget_insns=500)
        assert caught.value.kind is TrapKind.BUDGET


@pytest.mark.usefixtures("ubpf")
@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("call tail_call\nexit", "tail_call"),
        ("call loop\nexit", "loop"),
        ("r0 = *(u8 *)skb[0]\nexit", "ld_abs"),
        ("may_goto +0\nr0 = 0\nexit", "may_goto"),
        ("r0 = load_acquire((u64 *)(r1 + 0))\nexit", "load_acquire"),
    ],
)
def test_what_it_has_no_word_for_is_named(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedError, match=feature):
        _r0(Machine(text))


def test_what_libubpf_refuses_is_told(fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, fake)
    with pytest.raises(UnsupportedError, match="unknown opcode 0x27 at PC 1"):
        _r0(Machine("r0 = 1\nr0 *= 3\nexit"))


def test_a_hook_is_refused(fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, fake)
    machine = Machine(ADD_UP)
    with machine, _engine(machine, trusted=False) as engine:
        engine.hook = lambda *_: None
        with pytest.raises(UnsupportedError, match="watching"):
            engine.run(machine.program, machine.ctx_region.start)


def test_without_libubpf_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.VARIABLE, raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    with Machine(ADD_UP) as machine, pytest.raises(InputError, match="PYBPFVM_UBPF") as caught:
        chosen("ubpf", machine.image)
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_libubpf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "absent.so"))
    with pytest.raises(InputError, match="absent"):
        library.library()
    monkeypatch.setenv(library.VARIABLE, "libc.so.6")
    with pytest.raises(InputError, match="has no ubpf_create"):
        library.library()
