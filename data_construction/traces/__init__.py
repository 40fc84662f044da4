"""Traces between the steps of ``videoseg data``: what one is, how its file is read and continued, what it showed."""

from data_construction.traces.jsonl import JsonLines
from data_construction.traces.reading import BadLine, count_items, read_items, read_traces, trace_files
from data_construction.traces.shown import Shown, shown_images
from data_construction.traces.sources import Sources
from data_construction.traces.trace import BOXES, MASKS, Trace

__all__ = [
    "BOXES",
    "MASKS",
    "BadLine",
    "JsonLines",
    "Shown",
    "Sources",
    "Trace",
    "count_items",
    "read_items",
    "read_traces",
    "shown_images",
    "trace_files",
]
