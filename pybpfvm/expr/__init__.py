"""Expressions in the manner of C over a running program, its maps and its ring: for conditions,
watches, filters and what scenarios expect. The language is described in docs/expressions.md."""

from pybpfvm.expr.compiled import Compiled, compile_expression
from pybpfvm.expr.mistake import ExpressionError
from pybpfvm.expr.scope import Moment, RingView, Scope, Unreadable, moment_of
from pybpfvm.expr.value import Value

__all__ = [
    "Compiled",
    "ExpressionError",
    "Moment",
    "RingView",
    "Scope",
    "Unreadable",
    "Value",
    "compile_expression",
    "moment_of",
]
