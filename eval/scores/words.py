"""What tables and reports say around the numbers: headings, published values, what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from eval.scorers.types import Scores

HEADINGS = {
    "map": "track mAP",
    "ap50": "AP@50",
    "ap75": "AP@75",
    "ap90": "AP@90",
    "jf": "J&F",
    "j": "J",
    "f": "F",
    "accuracy": "A",
    "robustness": "R",
    "tiou": "tIoU",
    "viou": "vIoU",
    "n_acc": "N-acc",
    "t_acc": "T-acc",
    "davis_jf": "DAVIS J&F",
    "davis_j": "DAVIS J",
    "davis_f": "DAVIS F",
    "j_visible": "J visible",
    "interval_iou": "interval",
    "keyframe_hit": "keyframe",
}
"""In the order of a table's columns."""

NAMED = 20
"""So many missing expressions are named on the screen; ``scores.json`` names all."""


def metric_names(scores: Scores) -> list[str]:
    """The metrics that these scores define, in the order of their tables."""
    found = scores.overall.metrics
    known = [name for name in HEADINGS if name in found]
    known += [name for name in found if name not in HEADINGS]  # a scorer of your own
    return [name for name in known if name in ("jf", "j", "f") or found[name].n]


def headings_of(scores: Scores) -> dict[str, str]:
    """Metric -> what a table calls it: ours is called so where the benchmark's own tool means something else."""
    return HEADINGS | {name: f"{HEADINGS.get(name, name)} (ours)" for name in scores.info.get("ours", ())}


def published_of(scores: Scores) -> dict[str, dict[str, float]]:
    """Method -> metric -> published value, of what was computed in the same way."""
    ours = scores.info.get("ours", ())
    found = scores.info.get("published", {})
    return {method: {m: v for m, v in values.items() if m not in ours} for method, values in found.items()}


def remarks(scores: Scores) -> Iterator[str]:
    """What a reader must know: of the benchmark, of missing expressions, of annotations; a sentence each."""
    info = scores.info
    if note := info.get("note"):
        yield note
    if rule := info.get("missing_rule"):
        yield rule
    left_out = set(info.get("left_out", ()))
    if left_out:
        yield f"{len(left_out)} left out of the means: {_listed(sorted(left_out), {})}"
    for names, what in ((scores.missing, "missing"), (scores.failed, "failed")):
        if names := [name for name in names if name not in left_out]:
            yield f"{len(names)} {what}, each counts 0: {_listed(names, info.get('failures', {}))}"
    if scores.broken:
        yield f"{len(scores.broken)} with annotations that cannot be used, each counts 0: " + _listed(
            scores.broken, info.get("broken", {})
        )
    if odd := info.get("odd"):
        yield f"{len(odd)} with odd annotations, counted as the benchmark's own tool does: {_listed(list(odd), odd)}"


def _listed(names: Sequence[str], reasons: Mapping[str, str]) -> str:
    named = [f"{n} ({' '.join(reasons[n].split())[:200]})" if n in reasons else n for n in names[:NAMED]]
    more = f" and {len(names) - NAMED} more (scores.json names all)" if len(names) > NAMED else ""
    return ", ".join(named) + more
