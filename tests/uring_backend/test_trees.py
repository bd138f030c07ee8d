"""Host directories that worlds are seeded from and dumped to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybpfvm.errors import InputError
from pybpfvm.memory import AddressSpace
from pybpfvm.session import Ring
from pybpfvm.session.hostring import BackendName
from pybpfvm.uring_backend.sim import SimBackend
from pybpfvm.uring_backend.trees import Entry, read_tree, write_tree
from tests.support.session_ring import SIM_AND_KERNEL, need_backend


def test_a_tree_goes_through_a_world_unchanged(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d/e").mkdir(parents=True)
    (source / "d/f").write_bytes(b"\0content")
    (source / "d/link").symlink_to("f")
    (source / "out").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    with AddressSpace() as memory, SimBackend(memory) as backend:
        backend.world.seed(read_tree(source))
        assert backend.world.file_data("d/f") == b"\0content"
        with pytest.raises(InputError):
            backend.world.file_data("out")  # inside, there is no such file
        write_tree(target, backend.world.tree())
    assert read_tree(target) == read_tree(source)
    assert [entry.path for entry in read_tree(target)] == ["d", "d/e", "d/f", "d/link", "out"]


@pytest.mark.parametrize("backend", SIM_AND_KERNEL)
def test_names_of_any_bytes_and_modes_of_directories_stay(
    backend: BackendName, tmp_path: Path
) -> None:
    need_backend(backend)
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner/most").mkdir(parents=True)
    (source / "inner" / os.fsdecode(b"\xff, \xc3\xbc")).write_bytes(b"x")
    (source / "inner/most").chmod(0o500)
    (source / "inner").chmod(0o711)
    with Ring(backend=backend) as ring:
        ring.world.seed(read_tree(source))
        write_tree(target, ring.world.tree())
    assert read_tree(target) == read_tree(source)


def test_more_than_a_world_holds_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="256 MiB"):
        read_tree(tmp_path)


def test_nothing_is_written_over_or_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "full/x").mkdir(parents=True)
    with pytest.raises(InputError, match="not empty"):
        write_tree(tmp_path / "full", [])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"can not write {tmp_path}/file: Not a directory$"):
        write_tree(tmp_path / "file", [])
    outside = tmp_path / "outside"
    outside.mkdir()
    entries = [Entry("a", 0o120777, bytes(outside)), Entry("a/b", 0o100644, b"x")]
    with pytest.raises(InputError, match="can not write"):
        write_tree(tmp_path / "new", entries)
    assert list(outside.iterdir()) == []
