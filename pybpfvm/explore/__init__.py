"""Running a scenario in many orders: strategies that choose, findings, making them small."""

from pybpfvm.explore.findings import Found
from pybpfvm.explore.search import Report, explore

__all__ = ["Found", "Report", "explore"]
