"""What engines keep while they live, and give back: pages of code, access sites, handlers."""

from __future__ import annotations

import sys

import pytest

from pybpfvm.errors import InputError
from pybpfvm.jit import cpu, pages
from pybpfvm.jit.pages import CodeArea
from pybpfvm.jit.state import SITE_BYTES, State
from pybpfvm.memory import AddressSpace
from pybpfvm.session.engines import jit_refusal

pytestmark = pytest.mark.skipif(jit_refusal() is not None, reason=str(jit_refusal()))


def test_a_free_threaded_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.unsupported() is None
    monkeypatch.setattr(sys, "abiflags", "t")
    assert "free-threaded" in str(cpu.unsupported())


@pytest.mark.parametrize("call", [0, 1], ids=["writable", "executable"])
def test_pages_that_are_refused_are_free_again(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    area, real, calls = CodeArea(), pages._mprotect, [0]

    def refusing(start: int, span: int, protection: int) -> int:
        calls[0] += 1
        return -1 if calls[0] == call + 1 else real(start, span, protection)

    monkeypatch.setattr(pages, "_mprotect", refusing)
    with pytest.raises(InputError, match="refuses executable memory"):
        area.place(b"\xc3")
    assert area.place(b"\xc3").start == area.start
    assert area.place(b"\xc3").start == area.start + 4096


@pytest.mark.parametrize("left", [0, 1, 5])
def test_a_site_that_is_taken_again_lets_nothing_pass(left: int) -> None:
    with AddressSpace() as memory:
        state = State(memory)
        sites = [state.site() for _ in range(8)]
        for disp in sites:
            state.set_site(disp, 0x1000, 0x2000)
        state.drop_sites(left)
        assert state.sites() == left
        again = [state.site() for _ in range(8 - left)]
        assert not left or again == sites[left:]
        for disp in again:
            assert memory.read(memory.base + disp, SITE_BYTES) == bytes(SITE_BYTES)
        state.close()
