"""Is this data set what its layout promises? One call, one screen (SPEC 2.7)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_construction.check_score import self_score
from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers import Dataset, open_dataset, read_rl_annotations, read_vts_cot
from data_construction.readers.dataset import FrameCheck
from rollout.errors import DataError
from rollout.video import split_frame_path

SAMPLED_BYTES = 1 << 16
TYPE_NAMES = {0: "referring", 1: "reasoning", 2: "no target", None: "untyped"}


@dataclass
class SplitCounts:
    """What a split holds. ``self_jf`` is the lowest J&F of ground truth against itself; None without masks."""

    clips: int = 0
    frames: int = 0
    expressions: int = 0
    types: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    """Expressions by number of target objects."""
    scored: int = 0
    self_jf: float | None = None
    set_aside: int = 0
    """Expressions that cannot be used: a frame, a mask or a whole clip is wrong."""
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

    def add(self, problems: Iterable[Problem]) -> None:
        """More problems, each of which is kept once."""
        self.problems = list(dict.fromkeys([*self.problems, *problems]))

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
        report.splits[split] = _count(dataset, report, frames, progress)
        report.problems += _training_files(dataset, report.splits[split])
    if not report.splits and not report.problems:
        report.problems.append(Problem("nothing_found", str(root), f"no split of data set {name} is here"))
    report.problems = list(dict.fromkeys(report.problems))  # Reading finds again what validation found.
    return report


def present_splits(name: str, root: Path) -> list[str]:
    """Splits of a stanza whose annotation file exists (or that need none)."""
    from data_construction.readers import load_stanza

    stanza = load_stanza(name)
    return [s for s in stanza.splits if stanza.split(s, root).present(root)]


def _count(dataset: Dataset, report: CheckReport, frames: FrameCheck, progress: Progress | None) -> SplitCounts:
    errors: list[DataError] = []
    counts = SplitCounts(clips=len(dataset.index))
    for entry in dataset.index.values():
        counts.frames += len(entry.frames)
        unread = sum(bool(p.item) for p in entry.problems if p.code in ("malformed_expression", "malformed_record"))
        counts.expressions += len(entry.expressions) + unread
    types: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    usable, scored = 0, ("", {tuple[str, ...](): 1.0})
    for sample in dataset.samples(errors.append, "none" if frames == "none" else "exist"):
        if progress is not None:
            progress(usable, counts.expressions, f"scoring {dataset.name}/{dataset.split} against itself")
        usable, expression = usable + 1, sample.expression
        types[TYPE_NAMES.get(expression.type_id, f"type {expression.type_id}")] += 1
        kinds[expression.kind] += bool(expression.kind)
        targets[str(len(expression.anno_ids))] += 1
        if sample.masklets is None:
            continue
        if scored[0] != sample.clip.name:  # Expressions on the same objects of a clip are scored once.
            scored = (sample.clip.name, {})
        if expression.anno_ids not in scored[1]:
            jf = self_score(sample)
            assert jf is not None
            scored[1][expression.anno_ids] = jf
            if jf != 1.0:
                what = f"ground truth scores J&F {jf:.6f} against itself"
                item = f"expression {expression.id}"
                report.problems.append(Problem("self_score", str(dataset.root), what, sample.clip.name, item=item))
        jf = scored[1][expression.anno_ids]
        counts.scored += 1
        counts.self_jf = jf if counts.self_jf is None else min(jf, counts.self_jf)
    counts.set_aside = counts.expressions - usable
    counts.types, counts.kinds, counts.targets = dict(types), dict(+kinds), dict(sorted(targets.items()))
    report.problems += [problem_of(e, str(dataset.root), "unreadable_sample") for e in errors]
    return counts


def _twins(dataset: Dataset, seen: dict[str, tuple[str, str]]) -> Iterator[Problem]:
    """Clips with the same first and middle frame files as one of another split, whatever they are called.

    Of a video, its file is compared: size, first and last bytes.
    """
    for entry in dataset.index.values():
        if not entry.frames:
            continue
        paths = dataset.frame_paths(entry)
        try:
            digest = _print(paths[0], paths[len(paths) // 2])
        except OSError:
            continue
        split, clip = seen.setdefault(digest, (dataset.split, entry.name))
        if split != dataset.split and clip != entry.name:
            what = f"has the same frames as clip {clip} of split {split}"
            yield Problem("same_frames", str(paths[0].parent), what, entry.name, remedy="leave it in one split")


def _print(first: Path, middle: Path) -> str:
    inside = split_frame_path(first)
    if inside is None:
        return hashlib.sha256(first.read_bytes() + middle.read_bytes()).hexdigest()
    with open(inside[0], "rb") as file:
        head = file.read(SAMPLED_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - SAMPLED_BYTES))
        return hashlib.sha256(head + file.read() + str(size).encode()).hexdigest()


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
