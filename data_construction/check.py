"""Is this data set what its layout promises? One call, one screen (SPEC 2.7)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers import Dataset, open_dataset, read_rl_annotations, read_vts_cot
from data_construction.readers.dataset import FrameCheck
from rollout.errors import DataError
from rollout.types import RLE, Masklets, Sample

TYPE_NAMES = {0: "referring", 1: "reasoning", 2: "no target", None: "untyped"}


@dataclass
class SplitCounts:
    """What a split holds. ``self_j`` is the lowest J of ground truth scored against itself; None without masks."""

    clips: int = 0
    frames: int = 0
    expressions: int = 0
    types: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    """Expressions by number of target objects."""
    scored: int = 0
    self_j: float | None = None
    traces: int = 0
    rl_annotations: int = 0


@dataclass
class CheckReport:
    """Counts by split and everything found wrong."""

    name: str
    root: str
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "ok": self.ok}

    def table(self, width: int = 110) -> str:
        """One screen of text: counts, then the first problems."""
        from data_construction.check_table import render_report

        return render_report(self, width)


def check_dataset(
    name: str,
    root: str | Path,
    splits: Sequence[str] | None = None,
    frames: FrameCheck = "decode",
    progress: Progress | None = None,
) -> CheckReport:
    """Check ``splits`` (None: every split whose annotation file is there) of data set ``name`` under ``root``.

    Bad data is reported, not raised; a split that cannot be opened is a problem too.
    """
    report = CheckReport(name, str(Path(root).absolute()))
    fingerprints: dict[str, tuple[str, str]] = {}
    for split in splits if splits is not None else present_splits(name, Path(root)):
        try:
            dataset = open_dataset(name, root, split)
        except DataError as e:
            report.problems.append(problem_of(e, str(root), "unusable_split"))
            continue
        report.problems += dataset.validate(frames, progress)
        report.problems += _twins(dataset, fingerprints)
        report.splits[split] = _count(dataset, report, progress)
        report.problems += _training_files(dataset, report.splits[split])
    if not report.splits and not report.problems:
        report.problems.append(Problem("nothing_found", str(root), f"no split of data set {name} is here"))
    report.problems = list(dict.fromkeys(report.problems))  # Reading finds again what validation found.
    return report


def present_splits(name: str, root: Path) -> list[str]:
    """Splits of a stanza whose annotation file exists (or that need none)."""
    from data_construction.readers import load_stanza

    stanza = load_stanza(name)
    optional = stanza.annotation_format == "folder"
    return [s for s, f in stanza.splits.items() if optional or (root / (f.annotations or "")).is_file()]


def self_score(sample: Sample) -> float | None:
    """Mean J over the frames of the ground truth against itself after one more encoding; None without masks."""
    if sample.masklets is None:
        return None
    truth = sample.masklets
    again = Masklets(truth.height, truth.width, (tuple(_encoded_unions(truth)),), truth.num_frames)
    return float(np.mean([iou(again.union(t), truth.union(t)) for t in range(truth.num_frames)]))


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two (H, W) masks; 1.0 if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _encoded_unions(truth: Masklets) -> Iterator[RLE]:
    from pycocotools import mask as coco_mask

    for t in range(truth.num_frames):
        yield coco_mask.encode(np.asfortranarray(truth.union(t).astype(np.uint8)))


def _count(dataset: Dataset, report: CheckReport, progress: Progress | None) -> SplitCounts:
    errors: list[DataError] = []
    counts = SplitCounts(clips=len(dataset.clips()), frames=sum(len(e.frames) for e in dataset.index.values()))
    types: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    for done, sample in enumerate(dataset.samples(errors.append)):
        if progress is not None:
            progress(done, len(dataset), f"scoring {dataset.name}/{dataset.split} against itself")
        expression = sample.expression
        types[TYPE_NAMES.get(expression.type_id, f"type {expression.type_id}")] += 1
        kinds[expression.kind] += bool(expression.kind)
        targets[str(len(expression.anno_ids))] += 1
        j = self_score(sample)
        if j is not None:
            counts.scored += 1
            counts.self_j = j if counts.self_j is None else min(j, counts.self_j)
            if j != 1.0:
                what = f"ground truth scores J {j:.6f} against itself"
                item = f"expression {expression.id}"
                report.problems.append(Problem("self_score", str(dataset.root), what, sample.clip.name, item=item))
    counts.expressions = len(dataset)
    counts.types, counts.kinds, counts.targets = dict(types), dict(+kinds), dict(sorted(targets.items()))
    report.problems += [problem_of(e, str(dataset.root), "unreadable_sample") for e in errors]
    return counts


def _twins(dataset: Dataset, seen: dict[str, tuple[str, str]]) -> Iterator[Problem]:
    """Clips with the same first and middle frame files as one of another split, whatever they are called."""
    for entry in dataset.index.values():
        if not entry.frames:
            continue
        paths = dataset.frame_paths(entry)
        digest = hashlib.sha256()
        try:
            for path in (paths[0], paths[len(paths) // 2]):
                digest.update(path.read_bytes())
        except OSError:
            continue
        split, clip = seen.setdefault(digest.hexdigest(), (dataset.split, entry.name))
        if split != dataset.split and clip != entry.name:
            what = f"has the same frames as clip {clip} of split {split}"
            yield Problem("same_frames", str(paths[0].parent), what, entry.name, remedy="leave it in one split")


def _training_files(dataset: Dataset, counts: SplitCounts) -> Iterator[Problem]:
    """The RL annotations and traces beside the data set, where there are any."""
    rl = dataset.root / f"rl_annotations_{dataset.split}.json"
    cot = dataset.root / f"vts_cot_{dataset.split}.json"
    try:
        if rl.is_file():
            counts.rl_annotations = sum(1 for _ in read_rl_annotations(rl, dataset))
    except DataError as e:
        yield problem_of(e, str(rl), "rl_annotations")
    try:
        records = read_vts_cot(cot) if cot.is_file() else []
        counts.traces = len(records)
        for record in records:
            if len(record.frames) != len(dataset.clip(record.video_name).frames):
                what = f"a trace lists {len(record.frames)} frames, the data set has another number"
                yield Problem("traces", str(cot), what, record.video_name)
    except DataError as e:
        yield problem_of(e, str(cot), "traces")
