"""From finished traces to the two files of SPEC 2.7 as they were released: what the cold start and RL read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_construction.generate.folder import final_attempts
from data_construction.generate.journal import read_lines
from data_construction.json_list_writer import JsonListWriter

VTS_COT, RL_ANNOTATIONS = "vts_cot.json", "rl_annotations.json"
KEYS = ("video_name", "frames", "exp", "anno_id", "sample_frame_indice", "cot_trace", "conversations")
"""Of a record as released; what we know beside (a kind of expression) stays in the trace file."""


def write_released(traces: Path, folder: Path) -> int:
    """``vts_cot.json`` and ``rl_annotations.json`` of the ``ok`` multi-turn traces in a JSON-lines file; their number.

    Of several attempts at one expression the last counts. Each file is written whole or not at all, a trace at a time.
    """
    sound = (t for _, t in read_lines(traces) if t.get("status") == "ok" and t.get("method") == "videoseg_o3")
    records, annotations = (JsonListWriter(folder / name) for name in (VTS_COT, RL_ANNOTATIONS))
    try:
        for trace in final_attempts(sound):
            records.add(released(trace["record"]))
            if trace.get("rl_annotation"):
                annotations.add([trace["rl_annotation"]])
        records.finish()
        annotations.finish()
    finally:
        records.abort()
        annotations.abort()
    return records.count


def released(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the keys of SPEC 2.7, in its order."""
    return {key: record[key] for key in KEYS}
