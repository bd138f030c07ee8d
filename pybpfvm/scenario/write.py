"""A scenario file that is another one with a schedule, so that it fails as a finding did."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pybpfvm.scenario import less
from pybpfvm.scenario.parse import parse
from pybpfvm.scenario.schedule import Schedule

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_OF_FILES: Final = ("object", "contract", "dump")


def with_schedule(
    source: Path, target: Path, schedule: Schedule, comment: str, object_path: Path | None = None
) -> str:
    """The text for `target`: the scenario in `source` without the steps that the schedule leaves
    out, and with as little data as it leaves. Names of host files are made relative to `target`;
    `object_path` replaces the object."""
    tree = tomllib.loads(source.read_text(encoding="utf-8"))
    if schedule.cut:
        less.cut_tree(tree, parse(source), schedule.cut)
    if schedule.bare:
        less.bare_tree(tree)
    if "steps" in tree:
        tree["steps"] = [s for at, s in enumerate(tree["steps"]) if at not in schedule.without]
    if object_path is not None:
        tree["object"] = os.path.relpath(object_path, source.parent)
    moved = os.path.relpath(source.parent, target.parent)
    tree = _moved(tree, moved)
    for key in _OF_FILES:
        if key in tree:
            tree[key] = os.path.normpath(os.path.join(moved, tree[key]))
    if "from" in tree.get("files", {}):
        tree["files"]["from"] = os.path.normpath(os.path.join(moved, tree["files"]["from"]))
    for name, other in tree.get("replace", {}).items():
        tree["replace"][name] = os.path.normpath(os.path.join(moved, other))
    kept = Schedule(schedule.seed, schedule.faults, (), schedule.picks)
    tree["schedule"] = str(kept)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + _document(tree)


def _moved(value: Any, moved: str) -> Any:
    """The same, where content from a host file (`file = NAME`) names it from elsewhere."""
    if isinstance(value, list):
        return [_moved(item, moved) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: os.path.normpath(os.path.join(moved, item))
        if key == "file" and isinstance(item, str)
        else _moved(item, moved)
        for key, item in value.items()
    }


def _document(tree: Mapping[str, Any]) -> str:
    """TOML: plain values and lists first, then a table for each table, its values in one line."""
    plain = [key for key, value in tree.items() if not isinstance(value, dict)]
    lines = []
    for key in plain:
        value = tree[key]
        if key in ("steps", "filters"):
            lines += [f"{_key(key)} = [", *(f"    {_value(item)}," for item in value), "]"]
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, table in tree.items():
        if isinstance(table, dict):
            lines += ["", f"[{_key(key)}]"]
            lines += [f"{_key(name)} = {_value(item)}" for name, item in table.items()]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return repr(value)
