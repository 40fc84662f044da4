"""The report of a run: one HTML page that needs nothing else, neither a network nor a script.

May import `results`, `scores`, `benchmarks`.
"""

from __future__ import annotations

from eval.report.build import build_report
from eval.report.inputs import ReportInput, ReportStage

__all__ = ["ReportInput", "ReportStage", "build_report"]
