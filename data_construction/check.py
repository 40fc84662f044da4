"""Is this data set what its layout promises? One call, one screen (SPEC 2.7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_construction.check_report import CheckReport, SplitCounts
from data_construction.check_score import self_score
from data_construction.check_twins import twins
from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers import Dataset, open_dataset, read_rl_annotations, read_vts_cot
from data_construction.readers.dataset import FrameCheck
from rollout.control_text import control_fault
from rollout.errors import DataError

FRAME_CODES = ("missing_frame", "unreadable_frame", "frame_size", "frame_rate", "frame_name")
"""Problems of a frame for which nothing of its clip can be used."""
TYPE_NAMES = {0: "referring", 1: "reasoning", 2: "no target", None: "untyped"}


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
        found = dataset.validate(frames, progress)
        report.problems += found
        if not dataset.stanza.splits_are_sources:
            report.problems += twins(dataset, fingerprints)
        counts = report.splits[split] = _count(dataset, report, found, progress)
        report.problems += [*_against_stanza(dataset, counts), *_training_files(dataset, counts)]
    if not report.splits and not report.problems:
        report.problems.append(Problem("nothing_found", str(root), f"no split of data set {name} is here"))
    report.problems = list(dict.fromkeys(report.problems))  # Reading finds again what validation found.
    return report


def present_splits(name: str, root: Path) -> list[str]:
    """Splits of a stanza whose annotation file exists (or that need none)."""
    from data_construction.readers import load_stanza

    stanza = load_stanza(name)
    return [s for s in stanza.splits if stanza.split(s, root).present(root)]


def _count(dataset: Dataset, report: CheckReport, found: Sequence[Problem], progress: Progress | None) -> SplitCounts:
    """Counts of a split, and its ground truth against itself; ``found`` is what validation found in it."""
    errors: list[DataError] = []
    counts = SplitCounts(clips=len(dataset.index))
    types: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    bad_frames = {p.clip for p in found if p.code in FRAME_CODES}
    usable = 0
    for done, entry in enumerate(dataset.index.values()):
        if progress is not None:
            progress(done, counts.clips, f"scoring {dataset.name}/{dataset.split} against itself")
        counts.frames += len(entry.frames)
        counts.expressions += len(entry.expressions) + len(entry.lost)
        if entry.name in bad_frames:
            continue
        scored = {tuple[str, ...](): 1.0}  # Expressions on the same objects are scored once.
        for sample in dataset.samples_of(entry, errors.append, "none"):
            usable, expression = usable + 1, sample.expression
            types[TYPE_NAMES.get(expression.type_id, f"type {expression.type_id}")] += 1
            kinds[expression.kind] += bool(expression.kind)
            targets[str(len(expression.anno_ids))] += 1
            if sample.masklets is None:
                continue
            if expression.anno_ids not in scored:
                jf = self_score(sample)
                assert jf is not None
                scored[expression.anno_ids] = jf
                if jf != 1.0:
                    what = f"ground truth scores J&F {jf:.6f} against itself"
                    item = f"expression {expression.id}"
                    report.problems.append(Problem("self_score", str(dataset.root), what, sample.clip.name, item=item))
            jf = scored[expression.anno_ids]
            counts.scored += 1
            counts.self_jf = jf if counts.self_jf is None else min(jf, counts.self_jf)
    counts.set_aside = counts.expressions - usable
    counts.types, counts.kinds, counts.targets = dict(types), dict(+kinds), dict(sorted(targets.items()))
    report.problems += [problem_of(e, str(dataset.root), "unreadable_sample") for e in errors]
    return counts


def _against_stanza(dataset: Dataset, counts: SplitCounts) -> Iterator[Problem]:
    """What the stanza says is there: a file of foreground masks, and so many clips, frames and expressions."""
    files = dataset.files
    if files.foreground is not None and not (dataset.root / files.foreground).is_file():
        remedy = "get it: without, the robustness score R cannot be had"
        yield Problem("no_foreground", str(dataset.root / files.foreground), "does not exist", remedy=remedy)
    for name, wanted in files.expected.items():
        found = getattr(counts, name)
        if found != wanted:
            what = f"split {dataset.split} has {found} {name}, the stanza expects {wanted}"
            remedy = "get the annotation file again, or correct the stanza"
            yield Problem("unexpected_count", str(dataset.root / (files.annotations or "")), what, remedy=remedy)


def _training_files(dataset: Dataset, counts: SplitCounts) -> list[Problem]:
    """The RL annotations and traces beside the data set, where there are any: every fault of every item."""
    rl = dataset.root / f"rl_annotations_{dataset.split}.json"
    cot = dataset.root / f"vts_cot_{dataset.split}.json"
    errors: list[DataError] = []
    try:
        if rl.is_file():
            counts.rl_annotations = sum(1 for _ in read_rl_annotations(rl, dataset, errors.append))
    except DataError as e:
        errors.append(e)
    try:
        if cot.is_file():
            records = read_vts_cot(cot, errors.append, dataset)
            counts.traces = len(records)
            counts.traces_of_other_masks = sum(bool(r.mask_anno_id) for r in records)
            for n, record in enumerate(records):
                if record.mask_anno_id and dataset.masks is not None:
                    try:
                        dataset.masklets(record.video_name, record.mask_anno_id)
                    except DataError as e:
                        errors.append(e)
                if fault := control_fault(record.exp, record.replies):
                    place, item = record.video_name, f"record {n}"
                    problem = Problem("control_text", str(cot), fault, place, item=item, remedy="edit it")
                    errors.append(problem.error())
    except DataError as e:
        errors.append(e)
    return [problem_of(e, str(dataset.root), "training_file") for e in errors]
