"""What the segmenter reaches from true prompts, set beside an evaluation's J&F: one more baseline of every table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_construction.ceiling import Ceiling, Key, read_ceilings
from eval.scorers import get_scorer
from eval.scorers.base import Scorer
from eval.scorers.baselines import CEILING
from eval.scorers.grouping import GROUPINGS, grouped
from eval.scorers.types import GroupScores, Scores
from rollout.errors import DataError


def with_ceilings(scores: Scores, path: Path, dataset: str = "", split: str = "") -> Scores:
    """The same scores with the ceilings of ``path`` among the baselines; nothing else changes.

    Raises:
        DataError: not a file of ceilings, one of another data set, or one that lacks an expression of the scores.
    """
    known = read_ceilings(path, dataset, split)
    lacking = [r.name for r in scores.expressions if not r.broken and (r.clip, r.expression_id) not in known]
    if lacking:
        raise DataError(
            f"{path}: has no ceiling of {len(lacking)} of {len(scores.expressions)} scored expressions, the first is "
            f"{lacking[0]}; measure it for this data set and split (videoseg data check --ceiling)"
        )
    rows = [
        replace(row, baselines=row.baselines | _of((row.clip, row.expression_id), known)) for row in scores.expressions
    ]
    name = scores.info.get("scorer")
    scorer = get_scorer(name) if name else Scorer()
    left_out = set(scores.info.get("left_out", ()))
    counted = [row for row in rows if row.name not in left_out]

    def groups(grouping: str, old: Mapping[str, GroupScores]) -> dict[str, GroupScores]:
        found = grouped(counted, grouping, scorer.apart) if grouping in GROUPINGS else {}
        return {label: _beside(one, scorer.group(label, found.get(label, []))) for label, one in old.items()}

    return replace(
        scores,
        expressions=rows,
        overall=_beside(scores.overall, scorer.overall(counted)),
        by_type=groups("type", scores.by_type),
        by_kind=groups("kind", scores.by_kind),
        groups={grouping: groups(grouping, old) for grouping, old in scores.groups.items()},
    )


def _of(key: Key, known: Mapping[Key, Ceiling]) -> dict[str, float]:
    found = known.get(key)
    if found is None:
        return {}
    return {CEILING["boxes"]: found.boxes} | ({} if found.seg is None else {CEILING["seg"]: found.seg})


def _beside(old: GroupScores, anew: GroupScores) -> GroupScores:
    """Figures as they were scored; of the new ones only the ceilings."""
    added = {name: anew.baselines[name] for name in CEILING.values() if name in anew.baselines}
    return replace(old, baselines=old.baselines | added)
