"""The hosts of examples/, as modules, and what catches the broken twins there."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_ROWS: dict[str, dict[str, str]] = tomllib.loads((EXAMPLES / "twins.toml").read_text())
TWINS = {
    name: {how: what for how, what in row.items() if how != "explore"}
    for name, row in _ROWS.items()
}
EXPLORED = {name: row["explore"] for name, row in _ROWS.items() if "explore" in row}


def host_of(topic: str) -> ModuleType:
    """The host of an example, loaded anew."""
    (path,) = (EXAMPLES / topic).glob("*_host.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
