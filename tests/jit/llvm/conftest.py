"""Everything here needs llvmlite and a machine that the JIT runs on."""

from __future__ import annotations

import pytest

from pybpfvm.session.engines import jit_refusal

pytest.importorskip("llvmlite", reason="the extra llvm is not installed")
if jit_refusal() is not None:
    pytest.skip(f"the JIT can not run here: {jit_refusal()}", allow_module_level=True)
