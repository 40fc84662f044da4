"""Results and ground truth to scores. Needs neither torch nor a GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eval.baselines import Baselines
from eval.metrics import FrameMask, interval_iou, j_visible, keyframe_hit, score_clip
from eval.result_record import ResultRecord
from eval.score_types import TYPE_NAMES, ExpressionScore, GroupScores, Scores
from rollout.errors import DataError
from rollout.types import Sample

Progress = Callable[[int, int, str], None]
Key = tuple[str, str]


def score_results(
    records: Iterable[ResultRecord],
    samples: Iterable[Sample],
    *,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score every sample; what the results lack counts 0 in every score, no-target expressions included, and is listed.

    Args:
        records: what the model predicted, in any order.
        samples: the benchmark's expressions with their ground truth.
        protocol: how the results came about (frames, turns, model); copied into the scores.
        seed: of the run, likewise.
        progress: called with (done, total, what).

    Raises:
        DataError: a clip or expression that the benchmark lacks, one predicted twice, another frame count or size than
            the clip's, an RLE that does not decode, a sample without ground truth.
    """
    by_key = _index_samples(samples)
    predicted = _index_records(records, by_key)
    baselines = Baselines(by_key.values())
    rows: list[ExpressionScore] = []
    for done, (key, sample) in enumerate(by_key.items()):
        if progress:
            progress(done, len(by_key), f"scoring {sample.id}")
        rows.append(score_expression(sample, predicted.get(key), baselines))
    if progress:
        progress(len(by_key), len(by_key), "scored")
    by_type = _grouped(rows, lambda row: TYPE_NAMES.get(row.type_id, f"type {row.type_id}"))
    return Scores(
        overall=GroupScores.of("overall", rows),
        by_type=by_type,
        by_kind=_grouped(rows, lambda row: row.kind or TYPE_NAMES.get(row.type_id, "untyped")),
        expressions=rows,
        missing=[row.name for row in rows if row.missing],
        info=_info(rows, protocol, seed),
    )


def score_expression(sample: Sample, record: ResultRecord | None, baselines: Baselines) -> ExpressionScore:
    """One row; ``record`` None is a missing prediction."""
    gt = ground_truth(sample)
    clip, expression = sample.clip, sample.expression
    size = (clip.height, clip.width)
    blind = {
        name: score_clip(masks, gt, size, f"{sample.id}, baseline {name}")
        for name, masks in baselines.predictions(sample).items()
    }
    exists = blind["nothing"].gt_visible
    seen = bool(exists.any())
    jf = {name: 50 * float(scores.j.mean() + scores.f.mean()) for name, scores in blind.items()}
    values: dict[str, float | None] = {
        "jf": 0.0,
        "j": 0.0,
        "f": 0.0,
        **dict.fromkeys(("j_visible", "interval_iou", "keyframe_hit"), 0.0 if seen else None),
    }
    if record is not None:
        scores = score_clip(record.prediction, gt, size, sample.id)
        j, f = float(scores.j.mean()), float(scores.f.mean())
        values |= {"jf": 50 * (j + f), "j": 100 * j, "f": 100 * f, "j_visible": _percent(j_visible(scores.j, exists))}
        if seen and (vtg := record.grounding) is not None:
            values["interval_iou"] = 100 * interval_iou(vtg.start, vtg.end, exists)
            values["keyframe_hit"] = 100 * keyframe_hit(vtg.keyframe, exists)
    return ExpressionScore(
        clip=clip.name,
        expression_id=expression.id,
        text=expression.text,
        kind=expression.kind,
        type_id=expression.type_id,
        frames=clip.num_frames,
        visible_frames=int(exists.sum()),
        missing=record is None,
        baselines=jf,
        **values,  # type: ignore[arg-type]
    )


def ground_truth(sample: Sample) -> list[FrameMask]:
    """Per frame, the RLEs of all objects of the expression. Raises DataError if the sample has no ground truth."""
    masklets = sample.masklets
    if masklets is None:
        raise DataError(f"{sample.id}: no ground truth, cannot be scored")
    return [[masklet[t] for masklet in masklets.rles] for t in range(sample.clip.num_frames)]


def _index_samples(samples: Iterable[Sample]) -> dict[Key, Sample]:
    out: dict[Key, Sample] = {}
    for sample in samples:
        key = (sample.clip.name, sample.expression.id)
        if key in out:
            raise DataError(f"{sample.id}: twice in the benchmark")
        out[key] = sample
    if not out:
        raise DataError("no samples to score: the benchmark or its filter is empty")
    return out


def _index_records(records: Iterable[ResultRecord], samples: Mapping[Key, Sample]) -> dict[Key, ResultRecord]:
    out: dict[Key, ResultRecord] = {}
    for record in records:
        sample = samples.get(record.key)
        if sample is None:
            raise DataError(
                f"{record.name}: predicted, but not in the benchmark; results of another one, or another split?"
            )
        if record.key in out:
            raise DataError(f"{record.name}: predicted twice")
        record.check("results")
        clip = sample.clip
        found = (record.num_frames, record.height, record.width)
        if found != (clip.num_frames, clip.height, clip.width):
            raise DataError(
                f"{record.name}: predicted on {found[0]} frames of {found[1]}x{found[2]} (height x width), "
                f"the clip has {clip.num_frames} of {clip.height}x{clip.width}"
            )
        out[record.key] = record
    return out


def _grouped(rows: list[ExpressionScore], label: Callable[[ExpressionScore], str]) -> dict[str, GroupScores]:
    groups: dict[str, list[ExpressionScore]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    return {name: GroupScores.of(name, groups[name]) for name in sorted(groups)}


def _info(rows: list[ExpressionScore], protocol: Mapping[str, Any] | None, seed: int | None) -> dict[str, Any]:
    return {
        "protocol": dict(protocol or {}),
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "clips": len({row.clip for row in rows}),
        "expressions": len(rows),
        "frames": sum(row.frames for row in rows),
        "frames_with_target": sum(row.visible_frames for row in rows),
        "missing": sum(row.missing for row in rows),
        "versions": versions("videoseg-rl", "numpy", "numba", "pycocotools"),
    }


def versions(*packages: str) -> dict[str, str]:
    """Python and those of ``packages`` that are installed."""
    out = {"python": platform.python_version()}
    for package in packages:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "not installed"
    return out


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
