"""Damaged objects by the thousand, for test_loader_mutations.py and for longer runs by hand:

    python -m tests.loader.campaign_mutations CASES SEED

Each case damages one of data/*.o. It must end in an object or in one InputError. The process limits
its own memory.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from pathlib import Path

from pybpfvm.btf.types import Btf
from pybpfvm.errors import InputError
from pybpfvm.fuzz.damaged import damage, use
from pybpfvm.loader import load

DATA = Path(__file__).parent / "data"
MEMORY_BYTES = 256 << 20
SECONDS_PER_CASE = 5.0


def campaign(cases: int, seed: int) -> str:
    """Run it; a line that says what happened. AssertionError naming seed and case otherwise."""
    objects = [path.read_bytes() for path in sorted(DATA.glob("*.o"))]
    target = load(DATA / "core_target.o").btf
    assert isinstance(target, Btf)
    rng = random.Random(seed)
    loaded, slowest = 0, 0.0
    for case in range(cases):
        data = damage(rng, objects)
        start = time.process_time()
        try:
            use(load(data, target_btf=target, name="damaged.o"))
            loaded += 1
        except InputError as error:
            if "\n" in str(error) or not error.where:
                raise AssertionError(f"seed {seed}, case {case}: {error}") from error
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {case}: {error!r}") from error
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        assert seconds < SECONDS_PER_CASE, f"seed {seed}, case {case}: {seconds:.1f} s"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"{cases} cases, seed {seed}: {loaded} loaded, slowest {slowest:.3f} s, peak {peak} MiB"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    print(campaign(int(sys.argv[1]), int(sys.argv[2])))
