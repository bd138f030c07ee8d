"""`python -m pybpfvm`, and the entry point of the command `pybpfvm`."""

import sys


def main() -> int:
    """Run the command line. Ctrl-C is answered in a word also while its parts are imported."""
    try:
        from pybpfvm.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
