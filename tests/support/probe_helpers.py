"""`python -m tests.support.probe_helpers`: asks the running kernel which helpers it offers to which
program types, and writes the answer to pybpfvm/profiles/availability.py."""

from __future__ import annotations

import os
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

from pybpfvm import bpfsys
from pybpfvm.profiles.mainline import MAINLINE_NAMES
from tests.support.kernel_types import btf_variants, offered_helpers, variants

TABLE = Path(__file__).parents[2] / "pybpfvm" / "profiles" / "availability.py"

_HEAD = '''"""Which helpers a kernel offers to which program types, as it answered itself.

Written by `python -m tests.support.probe_helpers`; tests ask the running kernel again. A key is a
program type, or a type and an attach type for what only that one is offered besides.
"""

from __future__ import annotations

from collections.abc import Mapping

KERNEL = "{kernel}"

# What programs of all types are offered.
_ALL = """
{common}
"""

_BESIDES: Mapping[str, str] = {{
'''
_TAIL = '''}


def offered(program_type: str, attach_type: int) -> tuple[str, ...]:
    """The names of the helpers that programs of a type, attached like this, may call."""
    of_type = _BESIDES.get(program_type, "")
    of_attach = _BESIDES.get(f"{program_type}:{attach_type}", "")
    return (*_ALL.split(), *of_type.split(), *of_attach.split())
'''


def table() -> str:
    """The module's text."""
    asked_of = (*variants(), *btf_variants())
    asked = [(variant, offered_helpers(variant)) for variant in asked_of]
    common = frozenset.intersection(*(names for _, names in asked))
    by_type: dict[str, list[frozenset[str]]] = defaultdict(list)
    for variant, names in asked:
        by_type[variant.profile.name].append(names - common)
    rows: dict[str, frozenset[str]] = {}
    for name, sets in by_type.items():
        shared = frozenset.intersection(*sets)
        rows[name] = shared
        for variant, names in asked:
            besides = names - common - shared
            if variant.profile.name == name and besides:
                rows[variant.id] = besides
    kernel = ".".join(os.uname().release.split("-")[0].split(".")[:2])
    text = _HEAD.format(kernel=kernel, common=_wrapped(common, 4))
    for name, names in rows.items():
        if names:
            text += f'    "{name}": """\n{_wrapped(names, 8)}\n    """,\n'
    return text + _TAIL


def _wrapped(names: frozenset[str], indent: int) -> str:
    order = {name: number for number, name in MAINLINE_NAMES.items()}
    text = " ".join(sorted(names, key=order.__getitem__))
    blanks = " " * indent
    return textwrap.fill(
        text, 99, initial_indent=blanks, subsequent_indent=blanks, break_long_words=False
    )


def main() -> int:
    """Write the table; 1 where the kernel can not be asked."""
    reason = bpfsys.available()
    if reason is not None:
        print(f"nothing written: {reason}", file=sys.stderr)
        return 1
    TABLE.write_text(table(), encoding="utf-8")
    print(f"{TABLE.name}: {len(variants())} kinds of programs, {len(MAINLINE_NAMES) - 1} helpers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
