"""An evaluation as a source: results.jsonl, its scores where there are any, frames where their folder is given."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks import Benchmark
from eval.report.folder import scored_benchmark
from eval.results.index import Key, Place, index_results, read_record
from eval.results.record import ResultRecord, TurnRecord
from eval.results.results_file import RESULTS_FILE
from eval.scorers.types import Scores
from eval.scores.files import SCORES_FILE, read_scores
from rollout.errors import DataError, VideosegError
from rollout.types import RLE, Sample
from verl_ext.viewer.model import Curve, Dialogue, Entry, Group, NotThere, TurnView, number
from verl_ext.viewer.runs import box_shares

_FIELD = re.compile(rb'"(text|kind|stop)":\s*("(?:[^"\\]|\\.)*")')
"""Quotes inside a text are escaped, so that these can only be the record's own fields."""
_TURN = re.compile(rb'"frames_shown":')

PATIENCE = 10.0
"""A file that grows while one looks is read anew after so many times what reading took: gigabytes not every second."""


@dataclass(frozen=True)
class _Row:
    key: Key
    place: Place
    entry: Entry


class EvaluationSource:
    """See `verl_ext.viewer.model.Source`. ``root``: the data set's folder; None shows text alone."""

    score_name = "J&F"

    def __init__(self, folder: Path, root: Path | None = None, box_side: int = 560) -> None:
        self.folder, self.root, self._side = folder, root, box_side
        self.title = f"evaluation {folder.name}"
        self._lock = threading.Lock()
        self._read: tuple[str, list[_Row], list[str], Scores | None] = ("", [], [], None)
        self._dataset: Any = None
        self._again_at = 0.0
        self._listed: tuple[list[_Row] | None, list[Entry]] = (None, [])

    def stamp(self) -> str:
        parts = []
        for name in (RESULTS_FILE, SCORES_FILE):
            try:
                stat = (self.folder / name).stat()
                parts.append(f"{stat.st_mtime_ns}:{stat.st_size}")
            except OSError:
                parts.append("-")
        return "|".join(parts)

    def state(self) -> str:
        return "" if (self.folder / SCORES_FILE).is_file() else "running"

    def entries(self) -> tuple[Sequence[Entry], Sequence[str]]:
        _, rows, problems, _ = self._rows()
        if self._listed[0] is not rows:
            self._listed = (rows, [row.entry for row in rows])
        return self._listed[1], problems

    def group(self, key: str) -> Group:
        _, rows, _, scores = self._rows()
        found = next((row for row in rows if row.entry.key == key), None)
        if found is None:
            raise NotThere(f"{RESULTS_FILE} has no line {key}")
        path = self.folder / RESULTS_FILE
        try:
            with path.open("rb") as file:
                record = read_record(file, path, found.key, found.place)
        except (DataError, OSError) as e:
            raise NotThere(str(e)) from e
        sample, notes = self._sample(record, scores)
        return _group(key, record, found.entry, sample, notes, self._side)

    def curves(self) -> Sequence[Curve]:
        return []

    def facts(self) -> Sequence[tuple[str, str]]:
        from eval.report.build import record_facts

        scores = self._rows()[3]
        return record_facts(scores) if scores else []

    def _rows(self) -> tuple[str, list[_Row], list[str], Scores | None]:
        with self._lock:
            stamp, began = self.stamp(), time.monotonic()
            if self._read[0] != stamp and began >= self._again_at:
                self._read = (stamp, *self._read_all())
                took = time.monotonic() - began
                self._again_at = began + PATIENCE * took
            return self._read

    def _read_all(self) -> tuple[list[_Row], list[str], Scores | None]:
        path, scores, problems = self.folder / RESULTS_FILE, None, []
        try:
            scores = read_scores(self.folder / SCORES_FILE) if (self.folder / SCORES_FILE).is_file() else None
        except VideosegError as e:
            problems.append(str(e))
        jf = {(row.clip, row.expression_id): row.jf for row in scores.expressions} if scores else {}
        try:
            places = index_results(path)
        except DataError as e:
            return [], [*problems, str(e)], scores
        rows, read = [], 0
        with path.open("rb") as file:
            for key, place in places.items():
                file.seek(place.offset)
                rows.append(_Row(key, place, _entry(key, place, file.read(place.length), jf.get(key))))
                read = max(read, place.offset + place.length)
        if path.stat().st_size > read:
            problems.append(f"{RESULTS_FILE}: its last line is half written; it is left out until it is whole")
        return rows, problems, scores

    def _sample(self, record: ResultRecord, scores: Scores | None) -> tuple[Sample | None, list[str]]:
        if self.root is None:
            return None, ["No pictures: give --root, the data set's folder."]
        if scores is None:
            return None, [f"No pictures: {SCORES_FILE} says what was evaluated, and there is none yet; videoseg score."]
        try:
            benchmark: Benchmark = scored_benchmark(scores, self.folder / SCORES_FILE)
            self._dataset = self._dataset or benchmark.dataset_at(self.root)
            sample = benchmark.sample(self._dataset, record.clip, record.expression_id)
        except (VideosegError, OSError, KeyError) as e:
            return None, [f"No pictures: {e}"]
        if sample.clip.num_frames != record.num_frames:
            return None, [
                f"No pictures: it was predicted on {record.num_frames} frames, the clip under --root has "
                f"{sample.clip.num_frames}"
            ]
        return sample, []


def _entry(key: Key, place: Place, line: bytes, jf: float | None) -> Entry:
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(line):
        fields.setdefault(name.decode(), json.loads(value))
    clip, expression = key
    head = (f"{clip}/{expression}", clip, fields.get("text", ""), fields.get("kind", ""))
    return Entry(str(place.number), *head, [fields.get("stop", "")], [len(_TURN.findall(line))], [jf])


def _group(key: str, record: ResultRecord, entry: Entry, sample: Sample | None, notes: list[str], side: int) -> Group:
    turns = [_turn(t, side) for t in record.turns]
    rewards: dict[str, float | None] = dict(record.rewards or {})
    facts = [("J&F", number(entry.scores[0], 1)), ("tokens", str(record.tokens))]
    answer: dict[int, RLE | None] = dict(enumerate(record.prediction))
    dialogue = Dialogue(record.stop.value, turns, rewards, None, facts, answer)
    masklets = sample.masklets if sample is not None else None
    visible = [] if masklets is None else [bool(v) for v in masklets.existence()]
    truth = {} if masklets is None else {t: masklets.union_rle(t) for t in range(masklets.num_frames)}
    clip = sample.clip if sample is not None else None
    return Group(key, record.name, record.text, record.kind, clip, visible, truth, [dialogue], None, notes)


def _turn(t: TurnRecord, side: int) -> TurnView:
    boxes = box_shares(t.text, side) if t.has_boxes else []
    action = t.action.value if t.action else "answer" if boxes else ""
    keyframe = t.chosen if boxes else t.keyframe
    return TurnView(t.text, action, t.grounding, keyframe, t.frames_shown, {}, boxes)
