"""Compiled objects on disk: found by content, whole or not at all, bounded."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pybpfvm.engine import RunEnvironment
from pybpfvm.jit.llvm.cache import ObjectCache, default_folder
from pybpfvm.jit.llvm.compiler import Compiler
from pybpfvm.jit.llvm.engine import LlvmEngine
from tests.support.vm import Machine

TEXT = "r0 = *(u64 *)(r1 + 0)\nr0 += {}\nexit"


def run(folder: Path, number: int = 7) -> int:
    with Machine(TEXT.format(number)) as made:
        engine = LlvmEngine(made.image, {}, RunEnvironment(), cache=ObjectCache(folder))
        try:
            return engine.run(made.program, made.ctx_region.start).r0
        finally:
            engine.close()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The IR that was compiled."""
    texts: list[str] = []
    real = Compiler.compile

    def compile_noted(self: Compiler, text: str) -> bytes:
        texts.append(text)
        return real(self, text)

    monkeypatch.setattr(Compiler, "compile", compile_noted)
    return texts


def test_what_is_there_is_not_compiled_again(tmp_path: Path, compiled: list[str]) -> None:
    folder = tmp_path / "llvm"
    assert [run(folder) for _ in range(3)] == [7, 7, 7]
    assert len(compiled) == 1
    assert run(folder, 8) == 8
    assert len(compiled) == 2
    assert (folder.stat().st_mode & 0o777) == 0o700


def test_the_ir_names_no_address(tmp_path: Path, compiled: list[str]) -> None:
    with Machine("r0 = 0\nexit") as first:
        base = first.image.memory.base
        run(tmp_path)  # in another address space, at another place
        run(tmp_path)
    assert len(compiled) == 1
    assert str(base) not in compiled[0]


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 4000])
def test_a_damaged_entry_is_replaced(tmp_path: Path, damage: bytes, compiled: list[str]) -> None:
    run(tmp_path)
    (entry,) = tmp_path.glob("*.o")
    whole = entry.read_bytes()
    for raw in (damage, whole[:-1], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
        entry.write_bytes(raw)
        assert run(tmp_path) == 7
        assert entry.read_bytes() == whole
    assert len(compiled) == 4


def test_what_others_may_write_is_not_run(tmp_path: Path, compiled: list[str]) -> None:
    run(tmp_path)
    (entry,) = tmp_path.glob("*.o")
    entry.chmod(0o666)
    assert run(tmp_path) == 7
    assert len(compiled) == 2
    tmp_path.chmod(0o777)
    assert run(tmp_path) == 7
    assert len(compiled) == 3


def test_a_folder_that_can_not_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert run(tmp_path / "file" / "llvm") == 7


def test_the_folder_stays_small(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit_bytes=10_000)
    for number in range(20):
        cache.put(f"{number:02}", bytes(900))
        os.utime(tmp_path / f"{number:02}.o", (number, number))
        assert cache.get("00") is not None or number > 9  # what is used stays longest
    total = sum(entry.stat().st_size for entry in tmp_path.iterdir())
    assert 5_000 < total <= 10_000
    assert cache.get("19") == bytes(900)


def test_writers_do_not_meet(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    wrong: list[bytes] = []

    def write(number: int) -> None:
        for _ in range(50):
            cache.put("one", bytes([number]) * 5000)
            got = cache.get("one")
            if got is None or len(set(got)) != 1:
                wrong.append(got or b"")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [entry.name for entry in tmp_path.iterdir()] == ["one.o"]


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYBPFVM_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "llvm"
    monkeypatch.setenv("PYBPFVM_CACHE", "")
    assert default_folder() is None
    monkeypatch.delenv("PYBPFVM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pybpfvm" / "llvm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "pybpfvm" / "llvm"
