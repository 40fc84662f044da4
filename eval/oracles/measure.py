"""Train the readers, ask every oracle, score what they answer with true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_construction.cot.build import read_names
from eval.oracles.answers import ORACLES, Asked
from eval.oracles.clips import MarkedClip, Shown, marked_clips
from eval.oracles.figures import figures, jf_of
from eval.oracles.reader import TrainedReader
from eval.oracles.settings import LEAST_GAP, OracleSettings
from eval.oracles.twins import RIGHT_TWIN, TEACHER, has_twins, measure_twins
from rollout.errors import DataError
from rollout.types import RLE

BEST = "ground_truth_keyframe"


@dataclass
class OracleReport:
    """J&F and errors in percent."""

    root: str
    split: str
    clips: int
    expressions: int
    oracles: dict[str, dict[str, float]] = field(default_factory=dict)
    """By name: ``jf``, its standard error ``se``, and ``right``, the share of expressions whose object it took."""
    readers: dict[str, dict[str, float]] = field(default_factory=dict)
    """By budget: ``accuracy`` of marks on held-out legible frames, ``chance``, ``steps`` trained, ``units``.
    Empty where no mark is to be read."""
    best: str = BEST
    """The oracle that takes what is asked for."""

    @property
    def gap(self) -> float:
        """J&F between the right answer and the next best; the teacher, who takes the right one at times, is none."""
        others = [o["jf"] for name, o in self.oracles.items() if name not in (self.best, TEACHER)]
        return self.oracles[self.best]["jf"] - max(others)

    @property
    def pays(self) -> bool:
        """Whether exploring (or, among like objects, which one is drawn) is what earns J&F here."""
        return self.gap >= LEAST_GAP

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "gap": round(self.gap, 2), "pays": self.pays}


def measure_oracles(
    root: Path, split: str = "test", settings: OracleSettings | None = None, tell: Any = None
) -> OracleReport:
    """All oracles on ``split``; readers learn from the train split. A world of like pairs has oracles of its own.

    Raises:
        DataError: the data set's objects have no marks that want a closer look, or a split has no clips.
    """
    s = settings or OracleSettings()
    if has_twins(read_names(root)):
        found, clips, expressions = measure_twins(root, split, s.seed, s.train_clips)
        return OracleReport(str(root), split, clips, expressions, found, best=RIGHT_TWIN)
    train, test = marked_clips(root, "train", s.train_clips), marked_clips(root, split)
    if not train or not test:
        raise DataError(f"{root}: oracles need clips in train and in {split}")
    if split == "train":
        raise DataError("oracles are measured on clips that their readers have not seen; give another split than train")
    marks = sorted({m for c in (*train, *test) for m in c.marks})
    report = OracleReport(str(root), split, len(test), sum(len(c.samples) for c in test))
    readers: dict[str, TrainedReader] = {}
    for name, units in s.budgets.items():
        reader = TrainedReader(Shown(units), marks, s)
        steps = reader.train(train, tell)
        readers[name] = reader
        report.readers[name] = {"units": units, "steps": steps, "chance": 1 / len(marks), **_accuracy(reader, test)}
    report.oracles = _ask(test, readers, s)
    return report


def _accuracy(reader: TrainedReader, clips: Sequence[MarkedClip]) -> dict[str, float]:
    """Of single legible frames: the middle one of each clip."""
    right = [
        reader.marks[int(row.argmax())] == mark
        for clip in clips
        for row, mark in zip(reader.log_probs(clip, [clip.middle]), clip.marks, strict=True)
    ]
    return {"accuracy": float(np.mean(right)), "accuracy_se": float(np.std(right) / np.sqrt(len(right)))}


def _ask(
    clips: Sequence[MarkedClip], readers: dict[str, TrainedReader], s: OracleSettings
) -> dict[str, dict[str, float]]:
    found: dict[str, list[tuple[float, bool]]] = {name: [] for name in ORACLES}
    for number, clip in enumerate(clips):
        scores: dict[tuple[int | None, int], float] = {}
        for sample in clip.samples:
            target = clip.target(sample)
            for place, (name, answer) in enumerate(ORACLES.items()):
                rng = np.random.default_rng([s.seed, number, target, place])
                chosen = answer(Asked(clip, clip.marks[target], readers, s, rng))
                if (chosen, target) not in scores:
                    scores[chosen, target] = _jf(clip, chosen, target)
                found[name].append((scores[chosen, target], chosen == target))
    return {name: figures(rows) for name, rows in found.items()}


def _jf(clip: MarkedClip, chosen: int | None, target: int) -> float:
    nothing: list[RLE | None] = [None] * clip.clip.num_frames
    prediction = nothing if chosen is None else clip.masklets.rles[chosen]
    return jf_of(prediction, clip.masklets, target, clip.clip.name)
