"""Which clips a page shows."""

from __future__ import annotations

from collections.abc import Sequence

from eval.scorers.types import TYPE_NAMES, ExpressionScore

MOST_KINDS = 8

Chosen = list[tuple[ExpressionScore, list[str]]]
"""Rows to draw, each with the labels that say why."""


def choose(rows: Sequence[ExpressionScore], ends: int = 1) -> Chosen:
    """The ``ends`` best and worst, the median, and the median of each kind; without a prediction, or
    without usable masks to set beside it, nothing can be drawn.

    No-target expressions stand only for their kind: an empty answer to them would be every report's best clip.
    """
    drawable = sorted((r for r in rows if not (r.missing or r.broken)), key=lambda r: (r.jf, r.name))
    ranked = [r for r in drawable if r.visible_frames] or drawable
    if not ranked:
        return []
    labels: dict[str, list[str]] = {}
    ends = min(ends, max(1, len(ranked) // 2))
    marked = [(f"best {i}" if ends > 1 else "best", ranked[-i]) for i in range(1, ends + 1)]
    marked += [(f"worst {i}" if ends > 1 else "worst", ranked[i - 1]) for i in range(1, ends + 1)]
    marked.insert(ends, ("median", ranked[len(ranked) // 2]))
    for label, row in marked:
        labels.setdefault(row.name, []).append(label)
    kinds: dict[str, list[ExpressionScore]] = {}
    for row in drawable:
        kinds.setdefault(kind_name(row), []).append(row)
    for kind in sorted(kinds)[:MOST_KINDS]:
        row = kinds[kind][len(kinds[kind]) // 2]
        labels.setdefault(row.name, []).append(f"median of {kind}")
    by_name = {r.name: r for r in drawable}
    return [(by_name[name], marks) for name, marks in labels.items()]


def kind_name(row: ExpressionScore) -> str:
    """The data set's own label, or the type where it has none."""
    return row.kind.replace("_", " ") or TYPE_NAMES.get(row.type_id, "untyped")
