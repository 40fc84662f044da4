"""Charts as inline SVG: no script, colours from the page's style sheet, every label escaped."""

from __future__ import annotations

from eval.report.charts.bars import StageBar, kind_chart, stacked_chart
from eval.report.charts.histogram import histogram
from eval.report.charts.lines import Series, line_chart
from eval.report.charts.timeline import timeline

__all__ = ["Series", "StageBar", "histogram", "kind_chart", "line_chart", "stacked_chart", "timeline"]
