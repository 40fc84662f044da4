"""Weights, draws and kinds of a recipe's sources."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import DataError, RecipeError
from verl_ext.recipe import Recipe
from verl_ext.reinforce.dataset import RLDataset
from verl_ext.run.sources import load_samples, load_traces, weighted


def test_a_weight_of_two_and_a_half_shows_each_twice_and_half_of_them_again() -> None:
    counts = Counter(weighted(range(10), 2.5, seed=1))
    assert sum(counts.values()) == 25
    assert set(counts.values()) == {2, 3}
    assert weighted(range(10), 2.5, seed=1) == weighted(range(10), 2.5, seed=1)
    assert weighted(range(10), 0.5, seed=1) != weighted(range(10), 0.5, seed=2)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0), (0.3, 3), (1.0, 10), (2.0, 20)])
def test_number_of_items_follows_the_weight(weight: float, expected: int) -> None:
    items = weighted(range(10), weight, seed=0)
    assert len(items) == expected
    assert weight != 1.0 or items == list(range(10))


def test_no_items_stay_no_items() -> None:
    assert weighted([], 3.0, seed=0) == []


def test_data_weight_reaches_samples_and_traces(tiny_recipe: Callable[..., Recipe]) -> None:
    once, twice = (tiny_recipe("sft", f"data.0.weight={w}") for w in (1.0, 2.0))
    assert len(load_samples(twice)) == 2 * len(load_samples(once)) > 0
    assert len(load_traces(twice)) == 2 * len(load_traces(once)) > 0


def test_max_samples_limits_each_source_by_itself(tiny_recipe: Callable[..., Recipe], tiny_data: Path) -> None:
    traces = str(tiny_data / "vts_cot_train.json")
    source = f'{{"dataset": "revos", "root": "{tiny_data}", "annotations": "{traces}", "max_samples": %d}}'
    recipe = tiny_recipe("sft", f"data=[{source % 2}, {source % 3}]")
    assert len(load_traces(recipe)) == 5
    assert len(load_samples(recipe)) == 5


def test_kinds_are_filtered(tiny_recipe: Callable[..., Recipe]) -> None:
    kinds = {s.expression.kind for s in load_samples(tiny_recipe("grpo"))}
    assert "attribute" in kinds and len(kinds) > 1
    only = load_samples(tiny_recipe("grpo", "data.0.kinds=[attribute]"))
    assert {s.expression.kind for s in only} == {"attribute"}


def test_box_policies_skip_expressions_without_target(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe("grpo")
    assert any(not s.expression.anno_ids for s in load_samples(recipe))
    recipe.method = "veason_r1"
    assert all(s.expression.anno_ids for s in load_samples(recipe))


def test_a_missing_frame_stops_training_at_load_with_its_name(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    place = [f"data.0.root={root}", f"val.0.root={root}"]
    frame = root / "JPEGImages/train_00001/00007.jpg"
    frame.unlink()
    (root / "JPEGImages/valid_00001/00002.jpg").unlink()
    with pytest.raises(DataError, match=rf"missing_frame.*{frame}: clip train_00001, frame 00007"):
        load_samples(tiny_recipe("grpo", *place))
    with pytest.raises(DataError, match=r"missing_frame.*clip valid_00001, frame 00002"):
        load_samples(tiny_recipe("grpo", *place), held_out=True)
    annotations = f"data.0.annotations={root / 'vts_cot_train.json'}"
    with pytest.raises(DataError, match=r"missing_frame.*clip train_00001, frame 00007"):
        load_traces(tiny_recipe("sft", place[0], annotations))


def test_clips_that_are_not_there_or_have_nothing_to_ask_cost_themselves_alone(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    place = f"data.0.root={root}"
    traces = ("sft", place, f"data.0.annotations={root / 'vts_cot_train.json'}")
    before, told = load_samples(tiny_recipe("grpo", place)), load_traces(tiny_recipe(*traces))
    clips = list(dict.fromkeys(s.clip.name for s in before))
    shutil.rmtree(root / "JPEGImages" / clips[0])
    meta = root / "meta_expressions_train_.json"
    content = json.loads(meta.read_text())
    content["videos"][clips[1]]["expressions"] = {}
    meta.write_text(json.dumps(content))
    after = load_samples(tiny_recipe("grpo", place))
    assert [s.id for s in after] == [s.id for s in before if s.clip.name not in clips[:2]] and after
    assert f"1 of {len(content['videos'])} clips are not there and are left out: {clips[0]}" in caplog.text
    kept = load_traces(tiny_recipe(*traces))
    assert [s.id for s, _ in kept if s.expression.id != "trace"] == [
        s.id for s, _ in told if s.clip.name not in clips[:2]
    ]
    shutil.rmtree(root / "JPEGImages")
    for load, recipe in ((load_samples, tiny_recipe("grpo", place)), (load_traces, tiny_recipe(*traces))):
        with pytest.raises(DataError, match="does not exist, so none of the clip's"):
            load(recipe)


def test_held_out_is_evaluated_once_each(tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"val\[0\].weight: 2"):
        tiny_recipe("grpo", "val.0.weight=2.0")


def test_rl_rows_carry_references_and_held_out_rows_come_twice(
    tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]
) -> None:
    activate(tiny_recipe("grpo", "trainer.eval_every=1", "trainer.eval_samples=3"))
    train, held_out = RLDataset(["train"]), RLDataset(["held_out"])
    row = train[0]
    assert row["index"] == 0 and not row["held_out"]
    assert row["raw_prompt"][0]["content"] == row["sample"]["expression"]["text"]
    assert all(isinstance(p, str) for p in row["sample"]["clip"]["frames"])
    assert len(held_out) == 6
    greedy = [held_out[i]["greedy"] for i in range(6)]
    assert greedy == [True] * 3 + [False] * 3
    assert held_out[0]["sample"] == held_out[3]["sample"]
    assert [held_out[i]["__rollout_n__"] for i in range(6)] == [1] * 3 + [4] * 3


def test_an_empty_source_is_an_error(tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe]) -> None:
    activate(tiny_recipe("grpo", "data.0.kinds=[nothing like this]"))
    with pytest.raises(DataError, match=r"data\[0\]: .* gives no expressions"):
        RLDataset(["train"])


@pytest.mark.parametrize(
    ("overrides", "load", "words"),
    [
        (["data.1.kinds=[attributes]"], load_samples, r"data\[1\]: .*\(split train\) gives no expressions; .*"),
        (["data.1.kinds=[attributes]"], load_traces, r"data\[1\]: .*vts_cot_train.json .*gives no conversations; .*"),
        (["data.1.weight=1e-6"], load_samples, r"data\[1\]: .*all kinds with weight 1e-06.*"),
    ],
)
def test_one_source_of_several_that_gives_nothing_is_named_with_what_it_has(
    overrides: list[str], load: Any, words: str, tiny_recipe: Callable[..., Recipe], tiny_data: Path
) -> None:
    """The others would train on, and the user believe that this one did."""
    source = f'{{"dataset": "revos", "root": "{tiny_data}", "annotations": "{tiny_data / "vts_cot_train.json"}"}}'
    recipe = tiny_recipe("sft", f"data=[{source}, {source}]", *overrides)
    with pytest.raises(DataError, match=words + r"Correct data\[1\]\.kinds") as error:
        load(recipe)
    assert "of kind attribute" in str(error.value)


def test_a_held_out_source_that_gives_nothing_is_named_too(tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(DataError, match=r"val\[0\]: .* asked for are kinds \['none'\]\. Correct val\[0\]\.kinds"):
        load_samples(tiny_recipe("grpo", "val.0.kinds=[none]"), held_out=True)


@pytest.mark.parametrize("load", [load_samples, load_traces])
def test_an_expression_with_control_text_is_found_at_load(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, tmp_path: Path, load: Callable[[Recipe], list[object]]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    recipe = tiny_recipe("sft")
    recipe.data[0].root, recipe.data[0].annotations = str(root), str(root / "vts_cot_train.json")
    text = load_samples(recipe)[0].expression.text
    for file in root.rglob("*.json"):
        file.write_text(file.read_text().replace(f'"{text}"', '"the [SEG] of it"'))
    with pytest.raises(
        DataError, match=r"clip train_\d+, expression \S+: .* contains the control text '\[SEG\]'; edit"
    ):
        load(recipe)
