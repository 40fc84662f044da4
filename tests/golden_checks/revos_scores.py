"""``revos_scores.json``: ReVOS's own per-expression rows and summary table."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.golden_checks.report import Case, Check


def _by_expression(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["videxp"]: row for row in rows}


def _cases(data: Any) -> list[Case]:
    from eval.revos import score_revos

    @cache
    def scores() -> dict[str, Any]:
        found: dict[str, Any] = score_revos(
            data["meta_expressions"], data["mask_dict"], data["mask_dict_foreground"], data["predictions"], exact=False
        )
        return found

    expected = data["expected"]
    rows = _by_expression(expected["per_expression"])
    return [
        Case("expressions", sorted(rows), lambda: sorted(_by_expression(scores()["per_expression"]))),
        *(
            Case(name, row, lambda name=name: _by_expression(scores()["per_expression"])[name])  # type: ignore[misc]
            for name, row in rows.items()
        ),
        Case("summary", expected["summary"], lambda: scores()["summary"]),
    ]


CHECK = Check("revos_scores.json", 1e-6, _cases)
