"""Whatever holds traces, as the records that supervised training replays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_construction.readers.records import VTSCoTRecord, read_vts_cot
from data_construction.traces import MASKS, Trace, read_traces
from rollout.errors import DataError


def record_of(trace: Trace, frames: Sequence[str] = ()) -> VTSCoTRecord:
    """A trace as a VTS-CoT record. ``frames``: names of the clip's, for Veason-R1 traces, which do not hold them."""
    if trace.method == MASKS:
        try:
            return VTSCoTRecord.from_dict(trace.record)
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"trace {trace.id}: not a VTS-CoT record ({type(e).__name__}: {e})") from e
    return VTSCoTRecord(
        video_name=trace.clip,
        frames=tuple(frames),
        exp=trace.text,
        anno_id=tuple(str(a) for a in trace.raw.get("anno_id", ())),
        sample_frame_indice=trace.frames,
        cot_trace=(),
        conversations=trace.conversations,
        kind=str(trace.raw.get("kind") or ""),
        shown=trace.shown,
    )


def read_records(path: Path) -> Iterator[VTSCoTRecord]:
    """Records of a VTS-CoT ``.json``, a trace ``.jsonl`` or an exported ``.parquet``; only finished traces.

    Raises DataError naming file and line or row.
    """
    if path.suffix == ".parquet":
        from data_construction.export.verl import VerlParquet

        lines = enumerate(VerlParquet().read(path))
        traces: Iterator[Trace] = (Trace.from_dict(line, f"{path}, row {n}") for n, line in lines)
    elif path.suffix == ".jsonl":
        traces = read_traces(path)
    else:
        yield from read_vts_cot(path)
        return
    yield from (record_of(trace) for trace in traces if trace.raw.get("status", "ok") == "ok")
