"""The control-flow graph of a program: what runs after what, as a value, as text, as a picture."""

from __future__ import annotations

from pybpfvm.cfg.graph import Block, Cfg, Edge, EdgeKind, Function

__all__ = ["Block", "Cfg", "Edge", "EdgeKind", "Function"]
