"""`python -m pybpfvm`."""

import sys

from pybpfvm.cli import main

sys.exit(main())
