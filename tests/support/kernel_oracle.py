"""One generated program on both sides: the running kernel and the reference interpreter."""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm import bpfsys
from pybpfvm.bits import u32
from pybpfvm.engine import RunEnvironment
from pybpfvm.fuzz.visible import VALUE_BYTES, VALUES_MAP, Generated
from pybpfvm.image import Image
from pybpfvm.isa.codec import encode
from pybpfvm.isa.disasm import format_program
from pybpfvm.memory import RegionKind
from pybpfvm.program import BpfObject, MapType
from pybpfvm.vm.interp import Interpreter

_PROG_TYPES = (bpfsys.PROG_TYPE_SOCKET_FILTER, bpfsys.PROG_TYPE_XDP, bpfsys.PROG_TYPE_SYSCALL)
_KEY = bytes(4)
_PACKET = bytes(64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program left behind: the low 32 bits of r0, and the map value."""

    retval: int
    value: bytes


class KernelOracle:
    """Runs generated programs on the kernel, and on the interpreter. A context manager."""

    def __init__(self) -> None:
        self._map = bpfsys.map_create(MapType.ARRAY, 4, VALUE_BYTES, 1)
        self._image = Image(BpfObject("generated", "", (), (VALUES_MAP,)))
        self._ctx = self._image.memory.alloc(64, RegionKind.CTX, "ctx")

    def kernel(self, generated: Generated) -> Outcome | str:
        """What the kernel computes, or the last lines of its log if it refuses the program."""
        prog_type = _PROG_TYPES[generated.seed % len(_PROG_TYPES)]
        syscall = prog_type == bpfsys.PROG_TYPE_SYSCALL
        code = encode(generated.program.insns)
        flags = bpfsys.BPF_F_SLEEPABLE if syscall else 0
        fds = (self._map.fileno(),)
        with bpfsys.prog_load(code, prog_type=prog_type, flags=flags, map_fds=fds) as loaded:
            if loaded.fd is None:
                again = bpfsys.prog_load(
                    code, prog_type=prog_type, flags=flags, map_fds=fds, log_level=1
                )
                return "\n".join(again.log.splitlines()[-6:])
            bpfsys.map_update_elem(self._map, _KEY, generated.value)
            if syscall:
                ran = bpfsys.prog_test_run(loaded.fd)
            else:
                ran = bpfsys.prog_test_run(loaded.fd, _PACKET, repeat=1)
        return Outcome(ran.retval, bpfsys.map_lookup_elem(self._map, _KEY, VALUE_BYTES))

    def interpreter(self, generated: Generated) -> Outcome:
        """What the reference interpreter computes."""
        values = self._image.maps["values"]
        values.host_update(_KEY, generated.value)
        with Interpreter(self._image, {}, RunEnvironment()) as engine:
            ran = engine.run(generated.program, self._ctx.start)
        return Outcome(u32(ran.r0), values.host_lookup(_KEY))

    def close(self) -> None:
        """Give the map and the image back."""
        self._map.close()
        self._image.close()

    def __enter__(self) -> KernelOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def difference(generated: Generated, kernel: Outcome, ours: Outcome) -> str:
    """Both outcomes word by word where they differ, and the program."""
    lines = [f"seed {generated.seed}: retval kernel {kernel.retval:#x}, ours {ours.retval:#x}"]
    for offset in range(0, VALUE_BYTES, 8):
        theirs = int.from_bytes(kernel.value[offset : offset + 8], "little")
        mine = int.from_bytes(ours.value[offset : offset + 8], "little")
        if theirs != mine:
            lines.append(f"value+{offset}: kernel {theirs:#x}, ours {mine:#x}")
    return "\n".join((*lines, *format_program(generated.program.insns, style="kernel")))
