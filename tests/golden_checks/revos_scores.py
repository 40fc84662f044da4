"""``revos_scores.json``: ReVOS's own per-expression rows and summary table, against ``videoseg score``'s."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.golden_checks.report import Case, Check

if TYPE_CHECKING:
    from eval.scorers.types import ExpressionScore, GroupScores, Scores

METRICS = {"J": "j", "F": "f", "JF": "jf", "A": "accuracy", "R": "robustness"}
"""The tool's name -> ours."""
GROUPS = {"referring": "referring", "reason": "reasoning"}
FILES = {
    "meta_expressions": "meta_expressions_valid_.json",
    "mask_dict": "mask_dict.json",
    "mask_dict_foreground": "mask_dict_foreground.json",
}
"""Part of the golden file -> the data set's file."""


def write_folder(data: dict[str, Any], root: Path) -> Path:
    """The data set under ``root`` as ReVOS lays it out, and its predictions as a run's results, which are returned."""
    from eval.results.record import ResultRecord, TurnRecord
    from eval.results.results_file import RESULTS_FILE, ResultsFile
    from rollout.types import Action, StopReason

    for part, name in FILES.items():
        (root / name).write_text(json.dumps(data[part]))
    turn = TurnRecord("", Action.ANSWER, None, 0, (0,), 1)
    with ResultsFile(root / "run" / RESULTS_FILE) as results:
        for clip, expressions in data["predictions"].items():
            video = data["meta_expressions"]["videos"][clip]
            for eid, answer in expressions.items():
                e, masks = video["expressions"][eid], tuple(answer["prediction_masks"])
                head = (clip, eid, e["exp"], e["type_id"], "", len(masks), video["height"], video["width"], (0,))
                results.append(ResultRecord(*head, StopReason.ANSWERED, (turn,), masks))
    return results.path


def _scores(data: dict[str, Any]) -> Scores:
    from eval.benchmarks import load_benchmark
    from eval.scores.benchmark import score_benchmark

    with tempfile.TemporaryDirectory() as root:
        return score_benchmark(write_folder(data, Path(root)), load_benchmark("revos"), root, workers=1)


def _row(row: ExpressionScore) -> dict[str, Any]:
    """As the tool writes it."""
    names = {"video_name": row.clip, "exp_id": row.expression_id, "exp": row.text}
    values = {theirs: row.value(ours) for theirs, ours in METRICS.items()}
    return {**names, "videxp": f"{row.clip}_{row.expression_id}", **values, "type_id": row.type_id}


def _means(group: GroupScores | None) -> dict[str, float | None]:
    return {theirs: None if group is None else group.metrics[ours].mean for theirs, ours in METRICS.items()}


def _cases(data: Any) -> list[Case]:
    @cache
    def found() -> tuple[dict[str, Any], dict[str, Any]]:
        scores = _scores(data)
        types = scores.groups["type"]
        summary = {theirs: _means(types.get(ours)) for theirs, ours in GROUPS.items()}
        rows = {row["videxp"]: row for row in map(_row, scores.expressions)}
        return rows, {**summary, "overall": _means(scores.overall)}

    expected = data["expected"]
    rows = {row["videxp"]: row for row in expected["per_expression"]}
    return [
        Case("expressions", sorted(rows), lambda: sorted(found()[0])),
        *(Case(name, row, lambda name=name: found()[0][name]) for name, row in rows.items()),  # type: ignore[misc]
        Case("summary", expected["summary"], lambda: found()[1]),
    ]


CHECK = Check("revos_scores.json", 1e-6, _cases)
