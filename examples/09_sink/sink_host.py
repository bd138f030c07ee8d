"""A queue that nobody reads, from a Python host that looks at what was lost."""

from __future__ import annotations

import argparse
from pathlib import Path

import pybpfvm
from pybpfvm.session.hostring import BackendName

OBJECT = "prog.{version}.bpf.o"


def main(backend: BackendName, version: str) -> None:
    """Run the example and print what happened."""
    path = Path(__file__).with_name(OBJECT.format(version=version))
    obj = pybpfvm.load(path, abi=f"iouring-{version}")
    with pybpfvm.Ring(entries=8, cq_entries=[128], backend=backend) as ring:
        ring.register_bpf([obj["flood"]])
        ring.get_sqe().prep_bpf(0, user_data=200)
        ring.submit()
        print(f"done: res {ring.wait_cqe().res}")
        print(f"account: {obj.maps['account'][0]!r}")
        print(f"the sink holds {ring.ready(1)}, lost {ring.cq_overflow}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["sim", "kernel"], default="sim")
    parser.add_argument("--version", choices=["v2", "v3"], default="v3", help="of the ABI")
    args = parser.parse_args()
    main(args.backend, args.version)
