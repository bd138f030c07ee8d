"""cat, from a Python host that looks at the screen: a long file, a missing one, a poem."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

from pybpfvm.session import Machine, Ring, cstring
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"
FILES_MAX, BUFFER = 8, 1024
FILES = {
    "long.txt": b"1234567\n" * 500,  # more than the buffer, four times
    "none.txt": None,
    "poem.txt": b"The rings go round,\nthe queues go by.\n",
}


def main(backend: BackendName, version: str, engine: str = "auto") -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    with Machine() as machine:
        obj = machine.load(path, abi=f"iouring-{version}")
        with Ring(
            8, [16], backend=backend, abi=obj.profile, machine=machine, engine=engine
        ) as ring:
            ring.register_bpf([obj["cat"]])
            for name, content in FILES.items():
                if content is not None:
                    ring.world.add_file(name, content)
            names = [ring.user.alloc(cstring(ring.world.path(name))) for name in FILES]
            paths = [name.addr for name in names] + [0] * (FILES_MAX - len(names))
            out, screen = ring.world.socketpair()
            buffer = ring.user.alloc(BUFFER)
            job = ring.user.alloc(
                struct.pack("<8QQIiIIQ", *paths, buffer.addr, len(names), out, 0, 0, 0)
            )
            ring.get_sqe().prep_bpf(0, user_data=job.addr)
            ring.submit()

            print(f"done: res {ring.wait_cqe().res}")
            print(f"{job.u64(offset=88)} bytes; files that are missing: {job.u32(offset=80)}")
            shown = b""
            while got := screen.recv(65536):
                shown += got
            wanted = b"".join(content or b"" for content in FILES.values())
            print(f"the screen shows them one after the other: {shown == wanted}")
            print(shown[len(FILES["long.txt"] or b"") :].decode(), end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)
