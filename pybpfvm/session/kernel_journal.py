"""Which programs were loaded into the running kernel and which of those loads it survived.

Every load is written down, and on the disk, before it is made: a program that took the machine
down is known by its missing "ok" line, and is never loaded again.

    try KEY TYPE CODE BOOT OWNER    about to be loaded: program type, bytes, boot and process
    ok KEY                          the load came back

Several processes may write to one journal. A `try` of one that still lives is under way, not lost.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def default_path() -> Path:
    """Where the journal of `verify --against kernel` is: $XDG_STATE_HOME/pybpfvm."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "pybpfvm/kernel-journal"


class Journal:
    """The journal at a path, made if there is none. `lost` are the keys never to be tried."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if it can not be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._boot = _first_line(_BOOT_ID)
        self._owner = _owner(os.getpid())
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        pending = dict(_pending(lines))
        self.lost = frozenset(key for key, line in pending.items() if self._is_lost(line))
        self._compact(list(pending.values()), len(lines))

    def _is_lost(self, line: str) -> bool:
        """Whether a load that did not come back never will."""
        fields = line.split(" ")
        if len(fields) < 6 or fields[4] != self._boot or fields[5] == self._owner:
            return True
        pid = fields[5].partition(":")[0]
        return not pid.isdigit() or _owner(int(pid)) != fields[5]

    def _compact(self, kept: list[str], lines: int) -> None:
        """Drop what is settled, unless another process is writing."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            return
        if len(kept) < lines:
            # What is kept stands at the front before the rest goes: no moment is without it.
            text = "".join(f"{line}\n" for line in kept).encode("ascii", "replace")
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_APPEND)
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))
            os.fdatasync(self._file)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags)
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def begin(self, key: str, prog_type: int, code: bytes) -> None:
        """Write down what is about to be loaded, and see it on the disk."""
        line = f"try {key} {prog_type} {code.hex()} {self._boot} {_owner(os.getpid())}\n"
        os.write(self._file, line.encode())
        os.fdatasync(self._file)

    def survived(self, key: str) -> None:
        """The load came back."""
        os.write(self._file, f"ok {key}\n".encode())

    def close(self) -> None:
        """End of the run."""
        os.close(self._file)


def _pending(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(key, line) of the loads that have no "ok" after them."""
    tried: dict[str, str] = {}
    for line in lines:
        what, _, rest = line.partition(" ")
        key = rest.split(" ")[0]
        if what == "try" and key:
            tried[key] = line
        elif what == "ok":
            tried.pop(key, None)
    yield from tried.items()


def _owner(pid: int) -> str:
    """A process by its number and the time of its start, in ticks since boot: `12:345`. The
    number alone, which is nobody's name, if there is no such process."""
    text = _first_line(Path(f"/proc/{pid}/stat"))
    after_name = text.rpartition(")")[2].split()
    return f"{pid}:{after_name[19]}" if len(after_name) > 19 else f"{pid}"


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
