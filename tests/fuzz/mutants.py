"""Rules of the verifier switched off one at a time, as `make mutate` does, and looked for by `fuzz
verifier` alone: which of them does a campaign without any test of the rule find?

    python -m tests.fuzz.mutants [--sample N] [--seconds S] [--only TEXT] [--against kernel]

Each of N mutants (20) is looked for in a process of its own, for S seconds (30). Prints what found
each and a closing line. Many can not be found without a kernel: what they let through traps in no
run here. The exit code is 0 whatever is found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from random import Random

from tests.verifier.mutate import Mutant, _Change, _Finder, equivalents, mutants

_LOOK = "--look"


def main() -> int:
    """The table, or one search of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--against", choices=("kernel",))
    parser.add_argument(_LOOK, type=int, metavar="NUMBER", help="look for this one, here")
    args = parser.parse_args()
    known = list(mutants())
    if args.look is not None:
        print(_look(known[args.look], args.seconds, kernel=args.against is not None))
        return 0
    pointless = equivalents(known)
    numbers = [at for at, one in enumerate(known) if one not in pointless and args.only in str(one)]
    if len(numbers) > args.sample:
        numbers = sorted(Random(0).sample(numbers, args.sample))
    found = 0
    for number in numbers:
        command = [sys.executable, "-m", "tests.fuzz.mutants", _LOOK, str(number)]
        command += ["--seconds", str(args.seconds)]
        if args.against:
            command += ["--against", args.against]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout.strip() or f"crashed: {done.stderr.strip().rpartition(chr(10))[2]}"
        found += not said.startswith("not found")
        print(f"{known[number]}\n    {said}", flush=True)
    print(f"{found} of {len(numbers)} were found")
    return 0


def _look(mutant: Mutant, seconds: float, *, kernel: bool) -> str:
    sys.meta_path.insert(0, _Finder({mutant.file: _Change(mutant)}))
    # Only now may anything import the verifier.
    from pybpfvm.fuzz.campaign import Budget, Campaign
    from pybpfvm.fuzz.program_inputs import Choice
    from pybpfvm.fuzz.verifier import VerifierTarget

    target = VerifierTarget(Choice(("near", "near", "hostile")), against_kernel=kernel)
    try:
        campaign = Campaign(target, shrink_seconds=0)
        report = campaign.run(Budget(seconds, findings=1))
    finally:
        target.close()
    for one in report.findings.values():
        return f"found after {one.executions} tries, {one.seconds:.1f} s: {one.problem.bucket}"
    return f"not found in {report.executions} tries, {report.seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
