"""The golden totals: what the benchmarks' own tools print on small data, against ``videoseg score --released``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.golden_checks import totals_folders as folders
from tests.golden_checks.report import Case, Check

JF = {"J": "j", "F": "f", "J&F": "jf"}
ROUNDED = {"J": "j", "F": "f", "A": "accuracy", "JF": "jf"}
MISSING_FRAME: dict[str, Callable[[list[str], list[str]], bool]] = {
    "long_rvos": lambda lost, frames: frames[0] in lost,
    "revos": lambda lost, frames: bool(lost),
}
"""When frames without a PNG cost the whole expression; else they are empty masks."""


def score(name: str, data: Any, case: Any, missing: str | None = None, released: bool = True) -> Any:
    """Our scores of one case, as released, or None where the rule refuses them."""
    from eval.benchmarks import load_benchmark
    from eval.scores.benchmark import score_benchmark
    from rollout.errors import DataError

    benchmark = load_benchmark(name)
    benchmark = benchmark if missing is None else replace(benchmark, missing=missing)
    layout = getattr(folders, {"mevis_u": "mevis", "vicas_val": "vicas"}.get(name, name))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        layout(data, root)
        drop = MISSING_FRAME.get(name, lambda lost, frames: False)
        results = folders.write_results(benchmark, root, case, drop)
        try:
            return score_benchmark(results, benchmark, root, workers=1, released=released)
        except DataError as error:
            if "refuses results" in str(error):
                return None
            raise


def _means(group: Any, names: dict[str, str], scale: float = 1.0) -> dict[str, float]:
    return {theirs: scale * group.metrics[ours].mean for theirs, ours in names.items()}


def _values(row: Any, names: Sequence[str]) -> list[float]:
    return [row.value(name) / 100 for name in names]


def _counted(scores: Any) -> list[Any]:
    return [row for row in scores.expressions if row.name not in scores.info["left_out"]]


def _by_name(scores: Any, names: Sequence[str], key: Callable[[Any], str]) -> dict[str, list[float]]:
    return {key(row): _values(row, names) for row in _counted(scores)}


def ref_sav(data: Any, case: Any) -> dict[str, Any]:
    scores = score("ref_sav", data, case)
    kinds = {name: scores.groups["kind"][name] for name in ("long", "short")}
    rows = [
        {"video_name": row.clip, "exp_id": row.expression_id, **{t: row.value(o) for t, o in ROUNDED.items()}}
        | {"type_id": ["long", "short"].index(row.kind)}
        for row in _counted(scores)
    ]
    groups = {**kinds, "overall": scores.overall}
    counts = {name: group.count for name, group in kinds.items()}
    totals = {name: _means(group, ROUNDED) for name, group in groups.items()}
    return {"sa2va": {"n": counts, **totals, "per_expression": rows}}


def groundmore(data: Any, case: Any) -> dict[str, Any]:
    scores = score("groundmore", data, case)
    kinds = scores.groups["kind"]
    totals = {
        "n": scores.overall.count,
        "Global": _means(scores.overall, JF, 0.01),
        "Type_Statistics": {name: _means(group, JF, 0.01) for name, group in kinds.items()},
    }
    rows = {row.name: {t: row.value(o) / 100 for t, o in JF.items()} for row in _counted(scores)}
    found = {"videoseg_o3": totals, "mora": {**totals, "per_question": rows}}
    return {tool: found[tool] for tool in case["expected"]}


def long_rvos(data: Any, case: Any) -> dict[str, Any]:
    names = {**JF, "tIoU": "tiou", "vIoU": "viou"}
    scores, o3 = score("long_rvos", data, case), score("long_rvos", data, case, missing="left_out")
    groups = {**scores.groups["kind"], "overall": scores.overall}
    own = {name: {"n": group.count, **_means(group, names, 0.01)} for name, group in groups.items()}
    key = lambda row: f"{row.clip}_{row.expression_id}"  # noqa: E731
    own["per_expression"] = _by_name(scores, ["j", "f", "tiou", "viou"], key)
    if "missing_first_frame" in case["name"]:  # VideoSEG-O3's tool knows no missing frames: it got an empty mask
        o3 = score("long_rvos", data, {**case, "missing_frames": {}}, missing="left_out")
    kinds = {name: {"count": group.count, **_means(group, JF)} for name, group in o3.groups["kind"].items()}
    totals = {"n": o3.overall.count, "Global": _means(o3.overall, JF), "Type_Statistics": kinds}
    return {"long_rvos": own, "videoseg_o3": totals}


def reasonvos(data: Any, case: Any) -> dict[str, Any]:
    scores = score("reasonvos", data, case)

    def key(row: Any) -> str:
        number = row.expression_id.rpartition("_")
        obj = number[0] or _only_object(data, row)
        return f"{row.kind}_{row.clip}_{obj}_{number[2]}"

    own = {"n": scores.overall.count, **_means(scores.overall, JF, 0.01), "per_expression": _by_name(scores, "jf", key)}
    found = {"videolisa": own, "videoseg_o3": _means(scores.overall, JF)}
    return {tool: found[tool] for tool in case["expected"]}


def _only_object(data: Any, row: Any) -> str:
    asked = data["meta_expressions"]["videos"][row.clip]["expressions"]
    return str(next(e["obj_id"] for e in asked if str(e["exp_id"]) == row.expression_id))


def mevis(data: Any, case: Any) -> dict[str, Any]:
    scores, o3 = score("mevis_u", data, case), score("mevis_u", data, case, missing="left_out")
    rows = _by_name(scores, "jf", lambda row: f"{row.clip}_{row.expression_id}")
    own = {"n": scores.overall.count, **_means(scores.overall, JF, 0.01), "per_expression": rows}
    return {"mevis": own, "videoseg_o3": _means(o3.overall, JF)}


def vicas(data: Any, case: Any) -> dict[str, Any]:
    scores = score("vicas_val", data, case)
    if scores is None:
        return {"vicas": {"refused": True}}
    names = {"mAP": "map", "AP@50": "ap50", "AP@75": "ap75", "AP@90": "ap90"}
    tracks = sum(len(row.tracks) for row in scores.expressions)
    counts = {"predicted_tracks": tracks, "true_tracks": sum(row.objects for row in scores.expressions)}
    return {"vicas": {**counts, **_means(scores.overall, names)}}


def ref_davis17(data: Any, case: Any) -> dict[str, Any]:
    scores = score("ref_davis17", data, case)
    davis = {"J&F-Mean": "davis_jf", "J-Mean": "davis_j", "F-Mean": "davis_f"}
    rows = [row for row in scores.expressions if row.value("davis_j") is not None]
    annotators = []
    for a in range(4):
        own = [row for row in rows if int(row.expression_id) % 4 == a]
        totals = {t: sum(row.value(o) / 100 for row in own) / len(own) for t, o in davis.items()}
        ids = {clip: sorted(int(r.expression_id) for r in own if r.clip == clip) for clip in {r.clip for r in own}}
        objects = {
            f"{r.clip}_{ids[r.clip].index(int(r.expression_id)) + 1}": _values(r, ["davis_j", "davis_f"]) for r in own
        }
        annotators.append({**totals, "per_object": objects})
    mean = _means(scores.overall, davis, 0.01)
    found = {"objects": len(rows) // 4, "mean_of_annotators": mean, "annotators": annotators}
    return {"videoseg_o3": _means(scores.overall, JF), "davis": found}


def revos(data: Any, case: Any) -> dict[str, Any]:
    names = {"J": "j", "F": "f", "JF": "jf", "A": "accuracy", "R": "robustness"}
    found = {}
    for png, released in (("png_1", False), ("png_255", True)):
        scores = score("revos", data, case, released=released)
        types = scores.groups["type"]
        groups = {"referring": types["referring"], "reason": types["reasoning"], "overall": scores.overall}
        rows = [
            {"video_name": row.clip, "exp_id": row.expression_id, **{t: row.value(o) for t, o in names.items()}}
            | {"type_id": row.type_id}
            for row in scores.expressions
        ]
        summary = {name: _means(group, names) for name, group in groups.items()}
        found[png] = {"n": len(rows), "summary": summary, "per_expression": rows}
    return {"visa": found}


def _cases(compute: Callable[[Any, Any], Any], data: Any) -> list[Case]:
    return [
        Case(case["name"], case["expected"], partial(compute, data["datasets"][case["dataset"]], case))
        for case in data["cases"]
    ]


TOLERANCE, TRACKS = 1e-6, 1e-4
"""ViCaS' tool computes in float32."""
CHECKS = [
    Check(f"{name}_scores.json", TRACKS if name == "vicas" else TOLERANCE, partial(_cases, compute))
    for name, compute in {
        "ref_sav": ref_sav,
        "groundmore": groundmore,
        "long_rvos": long_rvos,
        "reasonvos": reasonvos,
        "mevis_valid_u": mevis,
        "vicas": vicas,
        "ref_davis17": ref_davis17,
        "revos_png255": revos,
    }.items()
]
