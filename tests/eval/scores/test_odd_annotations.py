"""An odd annotation does not stop a table: it counts by the benchmark's rule, else 0 by name; ``--strict`` stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval.benchmarks import load_benchmark
from eval.scores.benchmark import score_benchmark
from rollout.errors import DataError
from tests.eval.answers import write_results
from verl_ext.cli.main import app

Change = Callable[[Path], str]
"""Spoils a folder; returns ``clip/expression`` of what is odd (or the clip)."""


def edit(file: Path, change: Callable[[Any], Any]) -> Any:
    content = json.loads(file.read_text())
    out = change(content)
    file.write_text(json.dumps(content))
    return out


def first(content: Any, key: str = "expressions") -> tuple[str, Any]:
    clip = next(iter(content["videos"]))
    return clip, content["videos"][clip][key]


def no_length(root: Path) -> str:
    def change(content: Any) -> str:
        clip, questions = first(content, "questions")
        eid = next(iter(questions))
        questions[eid]["action_end"] = questions[eid]["action_start"]
        return f"{clip}/{eid}"

    return str(edit(root / "test_v2.json", change))


def before_the_clip(root: Path) -> str:
    def change(content: Any) -> str:
        clip, questions = first(content, "questions")
        eid = next(iter(questions))
        questions[eid] |= {"action_start": "0:58", "action_end": "1:02"}
        return f"{clip}/{eid}"

    return str(edit(root / "test_v2.json", change))


def without_folder(root: Path) -> str:
    clip, expressions = first(json.loads((root / "valid/meta_expressions.json").read_text()))
    eid, body = next(iter(expressions.items()))
    shutil.rmtree(root / "valid/Annotations" / clip / body["obj_id"])
    return f"{clip}/{eid}"


def longer_list(root: Path) -> str:
    clip, expressions = first(json.loads((root / "valid_u/meta_expressions.json").read_text()))
    eid, body = next(iter(expressions.items()))
    ids = [str(i) for i in body["anno_id"]]
    edit(root / "valid_u/mask_dict.json", lambda masks: [masks[i].append(None) for i in ids])
    return f"{clip}/{eid}"


def every_second_frame(root: Path) -> str:
    clip, expressions = first(json.loads((root / "meta_expressions.json").read_text()))
    folder = next((root / "Annotations").glob(f"*_{clip}_{expressions[0]['obj_id']}"))
    for file in sorted(folder.iterdir())[1::2]:
        file.unlink()
    return f"{clip}/{expressions[0]['obj_id']}_{expressions[0]['exp_id']}"


def longer_foreground(root: Path) -> str:
    def change(content: Any) -> str:
        clip = next(c for c in content if c.startswith("valid"))
        content[clip]["masks_rle"].append(None)
        return str(clip)

    return str(edit(root / "mask_dict_foreground.json", change))


def truncated_png(root: Path) -> str:
    clip, expressions = first(json.loads((root / "valid/meta_expressions.json").read_text()))
    eid, body = next(iter(expressions.items()))
    file = sorted((root / "valid/Annotations" / clip / body["obj_id"]).iterdir())[0]
    file.write_bytes(file.read_bytes()[:-25])
    return f"{clip}/{eid}"


def shorter_list(root: Path) -> str:
    name = longer_list(root)
    clip, eid = name.split("/")
    body = json.loads((root / "valid_u/meta_expressions.json").read_text())["videos"][clip]["expressions"][eid]
    edit(root / "valid_u/mask_dict.json", lambda m: m.update({str(i): m[str(i)][:3] for i in body["anno_id"]}))
    return name


def no_such_object(root: Path) -> str:
    name = longer_list(root)
    clip, eid = name.split("/")
    edit(
        root / "valid_u/meta_expressions.json",
        lambda c: c["videos"][clip]["expressions"][eid].update(anno_id=[99999]),
    )
    return name


def no_text(root: Path) -> str:
    name = longer_list(root)
    clip, eid = name.split("/")
    edit(root / "valid_u/meta_expressions.json", lambda c: c["videos"][clip]["expressions"][eid].pop("exp"))
    return name


def clip_without_expressions(root: Path) -> str:
    def change(content: Any) -> str:
        content["videos"]["empty"] = {"frames": ["00000"], "expressions": {}, "vid_id": 9}
        return "empty"

    return str(edit(root / "valid_u/meta_expressions.json", change))


def no_frames(root: Path) -> str:
    return str(
        edit(
            root / "valid_u/meta_expressions.json",
            lambda c: [c["videos"].update(lost={"frames": [], "expressions": {"0": {"exp": "it"}}}), "lost/0"][1],
        )
    )


BY_RULE: dict[str, tuple[str, Change]] = {
    "an action of no length": ("groundmore", no_length),
    "an action that begins before the clip": ("groundmore", before_the_clip),
    "an object without a folder": ("long_rvos", without_folder),
    "a mask list longer than the frames": ("mevis_u", longer_list),
    "masks of every second frame": ("reasonvos", every_second_frame),
    "foreground masks beyond the last frame": ("revos", longer_foreground),
    "a clip without expressions": ("mevis_u", clip_without_expressions),
}
UNUSABLE: dict[str, tuple[str, Change]] = {
    "a truncated PNG": ("long_rvos", truncated_png),
    "a mask list shorter than the frames": ("mevis_u", shorter_list),
    "an object without masks": ("mevis_u", no_such_object),
    "an expression without text": ("mevis_u", no_text),
    "a clip without frames": ("mevis_u", no_frames),
}


@pytest.fixture
def spoil(layouts: Callable[[str], Path], tmp_path: Path) -> Callable[[str, Change], tuple[Path, str]]:
    """(a spoilt copy of a benchmark's layout, what is odd there); right answers to the sound one lie in ``run``."""

    def make(name: str, change: Change) -> tuple[Path, str]:
        benchmark = load_benchmark(name)
        sound, root = layouts(benchmark.dataset), tmp_path / "data"
        write_results(tmp_path / "run", benchmark.samples(sound))
        shutil.copytree(sound, root)
        return root, change(root)

    return make


def command(name: str, root: Path, run: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["score", str(run), "--benchmark", name, "--root", str(root), *options])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("what", BY_RULE)
def test_what_the_benchmarks_own_tool_takes_counts(what: str, spoil: Any, tmp_path: Path) -> None:
    name, change = BY_RULE[what]
    root, odd = spoil(name, change)
    code, said = command(name, root, tmp_path / "run", "--out", str(tmp_path / "out"))
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert code == 0 and "odd annotations, counted as the benchmark's own tool does" in said, said
    assert odd in scores["info"]["odd"] and scores["broken"] == [] and scores["missing"] == []
    code, said = command(name, root, tmp_path / "run", "--strict")
    assert code == 2 and odd.split("/")[0] in said, said


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_no_tool_takes_counts_0_and_is_listed(what: str, spoil: Any, tmp_path: Path) -> None:
    name, change = UNUSABLE[what]
    root, odd = spoil(name, change)
    code, said = command(name, root, tmp_path / "run", "--out", str(tmp_path / "out"))
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert code == 3 and "with annotations that cannot be used, each counts 0" in said, said
    assert odd in scores["broken"] and odd in scores["info"]["broken"] and odd in said
    rows = {f"{r['clip']}/{r['expression_id']}": r for r in scores["expressions"]}
    assert rows[odd]["jf"] == 0.0 and rows[odd]["broken"]
    assert all(r["jf"] == 100.0 for n, r in rows.items() if n not in scores["broken"])
    code, said = command(name, root, tmp_path / "run", "--strict")
    assert code == 2 and odd.split("/")[0] in said, said


def test_an_empty_truth_is_right_for_an_empty_answer_only(spoil: Any, tmp_path: Path) -> None:
    root, odd = spoil("long_rvos", without_folder)
    benchmark = load_benchmark("long_rvos")
    row = next(r for r in score_benchmark(tmp_path / "run/results.jsonl", benchmark, root).expressions if r.name == odd)
    assert row.visible_frames == 0 and row.extra["tiou"] == 0.0 and row.j < 100.0


def test_frames_without_a_file_do_not_count(spoil: Any, tmp_path: Path) -> None:
    """Right answers stay right: the frames that have no PNG are left out, not taken for empty."""
    root, odd = spoil("reasonvos", every_second_frame)
    scores = score_benchmark(tmp_path / "run/results.jsonl", load_benchmark("reasonvos"), root)
    row = next(r for r in scores.expressions if r.name == odd)
    assert (row.j, row.f) == (100.0, 100.0)


def test_a_file_of_masks_that_is_none_still_stops(spoil: Any, tmp_path: Path) -> None:
    """Otherwise a whole benchmark would count 0 for a download cut short."""
    root, _ = spoil("mevis_u", longer_list)
    (root / "valid_u/mask_dict.json").write_text('{"0": [')
    with pytest.raises(DataError, match=r"mask_dict\.json"):
        score_benchmark(tmp_path / "run/results.jsonl", load_benchmark("mevis_u"), root)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_say_the_same(workers: int, spoil: Any, tmp_path: Path) -> None:
    root, odd = spoil("mevis_u", shorter_list)
    scores = score_benchmark(tmp_path / "run/results.jsonl", load_benchmark("mevis_u"), root, workers=workers)
    assert scores.broken[0] == odd and "mask list has 3 entries" in scores.info["broken"][odd]


def test_any_split_of_a_data_set_likewise(spoil: Any, tmp_path: Path) -> None:
    root, odd = spoil("mevis_u", shorter_list)
    options = ["--dataset", "mevis", "--split", "valid_u", "--root", str(root)]
    done = CliRunner().invoke(app, ["score", str(tmp_path / "run"), *options])
    assert done.exit_code == 3 and odd in " ".join(done.output.split()) and "largest" in done.output
