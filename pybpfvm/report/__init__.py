"""How findings and runs are shown: text for people, JSON for machines."""

from __future__ import annotations

from pathlib import Path

# One JSON Schema (draft 2020-12) for each document: `pybpfvm.run/1` is described by run-1.json.
SCHEMAS = Path(__file__).with_name("schemas")
