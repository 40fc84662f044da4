"""Traces to look at: one HTML page with frames, turns, thinking and verdicts that needs nothing else.

May import `report`.
"""

from eval.traces.build import GalleryReport, write_gallery
from eval.traces.choose import Entry, choose, trace_sources

__all__ = ["Entry", "GalleryReport", "choose", "trace_sources", "write_gallery"]
