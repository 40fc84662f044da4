"""A folder of CoT traces as a source: what teachers wrote, and what verification said about it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from data_construction.traces import BOXES, Sources, Trace, shown_images
from data_construction.traces.shown import SIDE, agreed
from eval.traces.choose import Entry as TraceEntry
from eval.traces.choose import read_entries, trace_sources
from rollout.errors import DataError, VideosegError
from rollout.protocol import parse_turn
from rollout.types import Sample
from verl_ext.viewer.model import Curve, Dialogue, Entry, Group, NotThere, TurnView
from verl_ext.viewer.runs import box_shares


class TraceSource:
    """See `verl_ext.viewer.model.Source`. The verdict stands where a rollout has its stop reason."""

    score_name = ""

    def __init__(self, path: Path, sources: Sources | None) -> None:
        self._path, self._sources = path, sources
        self.title = f"traces {path.name}"
        self._lock = threading.Lock()
        self._read: tuple[str, dict[str, TraceEntry], list[str]] = ("", {}, [])

    def stamp(self) -> str:
        try:
            return "|".join(f"{(s := p.stat()).st_mtime_ns}:{s.st_size}" for p in trace_sources(self._path))
        except (OSError, DataError):
            return "-"

    def state(self) -> str:
        return ""

    def entries(self) -> tuple[Sequence[Entry], Sequence[str]]:
        _, found, problems = self._entries()
        rows = []
        for key, e in found.items():
            t = e.trace
            verdict = f"{e.verdict}: {e.check}".rstrip(": ").replace("_", " ")
            rows.append(Entry(key, t.id, t.clip, t.text, t.kind, [verdict], [len(t.replies)], [None]))
        return rows, problems

    def group(self, key: str) -> Group:
        entry = self._entries()[1].get(key)
        if entry is None:
            raise NotThere(f"there is no trace number {key}")
        trace, sample, notes = entry.trace, None, []
        try:
            if self._sources is None:
                raise DataError("give --root, the data set's folder")
            sample = self._sources.sample(trace)
        except (VideosegError, OSError) as e:
            notes.append(f"No pictures: {e}")
        dialogue = Dialogue(entry.verdict, _turns(trace, sample), notes=entry.reasons)
        masklets = sample.masklets if sample is not None else None
        visible = [] if masklets is None else [bool(v) for v in masklets.existence()]
        truth = {} if masklets is None else {t: masklets.union_rle(t) for t in range(masklets.num_frames)}
        clip = sample.clip if sample is not None else None
        return Group(key, trace.id, trace.text, trace.kind, clip, visible, truth, [dialogue], None, notes)

    def curves(self) -> Sequence[Curve]:
        return []

    def facts(self) -> Sequence[tuple[str, str]]:
        return []

    def _entries(self) -> tuple[str, dict[str, TraceEntry], list[str]]:
        with self._lock:
            stamp = self.stamp()
            if self._read[0] != stamp:
                problems: list[str] = []
                found = {str(e.place): e for e in read_entries(trace_sources(self._path), problems)}
                self._read = (stamp, found, problems)
            return self._read


def _turns(trace: Trace, sample: Sample | None) -> list[TurnView]:
    shown: list[list[int]] = []
    if sample is not None:
        with contextlib.suppress(DataError):  # a rejected trace may not add up; its text is shown all the same
            shown = [[i.frame for i in message] for message in shown_images(trace, sample.clip.num_frames)]
    turns = []
    for n, reply in enumerate(trace.replies):
        frames = shown[n] if n < len(shown) else []
        if trace.method == BOXES:
            boxes = box_shares(reply, int(agreed(trace, "side", None, SIDE)))
            turns.append(TurnView(reply, "answer" if boxes else "", None, trace.keyframe, frames, {}, boxes))
            continue
        parsed = parse_turn(reply)
        g = parsed.grounding
        action = parsed.action.value if parsed.action else ""
        turns.append(TurnView(reply, action, g, g.keyframe if g else None, frames))
    return turns
