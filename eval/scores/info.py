"""Means over rows, and what every score file says about itself."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eval.results.run_info import RunInfo
from eval.results.unreadable import unreadable_counts
from eval.scorers.base import Scorer
from eval.scorers.grouping import grouped
from eval.scorers.missing import RULES, in_words
from eval.scorers.types import ExpressionScore, GroupScores, Scores

Progress = Callable[[int, int, str], None]
PACKAGES = ("videoseg-rl", "numpy", "numba", "pycocotools")


def summarise(
    rows: list[ExpressionScore],
    scorer: Scorer,
    *,
    groups: Sequence[str] = (),
    run: RunInfo | None = None,
    about: Mapping[str, Any] | None = None,
    missing: str = "",
) -> Scores:
    """Rows to scores: the scorer's means overall and by group, the names of what is missing, and the information.

    ``groups`` names groupings (``eval.scorers.grouping``); ``run`` is how the results came about, ``about`` is added
    to it, its ``broken`` are names of what the data set is wrong about. ``missing`` is the official tool's rule for
    expressions without a prediction (``eval.scorers.missing``), which a scorer follows if it is to score as released.
    Raises DataError if that rule is to refuse them.
    """
    rows = _without_intervals(rows)
    left_out = RULES[missing].left_out(rows) if scorer.released and missing else set()
    counted = [row for row in rows if row.name not in left_out]

    def means(grouping: str) -> dict[str, GroupScores]:
        return {label: scorer.group(label, found) for label, found in grouped(counted, grouping, scorer.apart).items()}

    by_type, by_kind = means("type"), means("kind")
    known = {"type": by_type, "kind": by_kind}
    return Scores(
        overall=scorer.overall(counted),
        by_type=dict(sorted(by_type.items())),
        by_kind=by_kind,
        expressions=rows,
        missing=[row.name for row in rows if row.missing],
        failed=[row.name for row in rows if row.failed],
        info={
            **_info(rows, run or RunInfo()),
            "headline": scorer.headline,
            "ours": list(scorer.ours),
            "released": scorer.released,
            "missing_rule": in_words(missing, scorer.released),
            "left_out": sorted(left_out),
            **(about or {}),
        },
        groups={name: known[name] if name in known else means(name) for name in groups},
        broken=list((about or {}).get("broken", ())),
    )


def _without_intervals(rows: list[ExpressionScore]) -> list[ExpressionScore]:
    """A method that answers with boxes has no intervals: neither have the answers that it failed to give."""
    if not any(row.visible_frames and row.interval_iou is None for row in rows):
        return rows
    return [replace(row, interval_iou=None) for row in rows]


def _info(rows: list[ExpressionScore], run: RunInfo) -> dict[str, Any]:
    frames = {row.clip: row.frames for row in rows}
    return {
        "protocol": dict(run.protocol),
        "seed": run.seed,
        "inference_versions": dict(run.versions),
        "failures": {row.name: run.failures[row.name] for row in rows if row.missing and row.name in run.failures},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "clips": len(frames),
        "expressions": len(rows),
        "frames": sum(row.frames for row in rows),
        "frames_with_target": sum(row.visible_frames for row in rows),
        "frames_by_clip": frames,
        "missing": sum(row.missing for row in rows),
        "failed": sum(row.failed for row in rows),
        "dialogues": sum(not row.missing and not row.failed for row in rows),
        "unreadable": unreadable_counts(row.unreadable for row in rows),
        "versions": versions(*PACKAGES),
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
