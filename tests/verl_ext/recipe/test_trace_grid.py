"""Boxes and seconds of another grid than the recipe's are refused before training, in every form of the traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction import readers
from data_construction.cot.seed import SeedSettings
from data_construction.cot.seed_by_rule import write_seed_traces
from data_construction.export import export, read_records
from data_construction.readers import open_dataset
from data_construction.traces import Sources
from rollout.errors import DataError
from verl_ext.recipe import Recipe, check_ready
from verl_ext.run.sources import load_traces

BoxRecipe = Callable[..., Recipe]


def traces(root: Path, folder: Path, form: str = "jsonl", **settings: Any) -> Path:
    """Of all expressions, as ``cot seed`` writes them or as ``data export`` does."""
    lines = folder / "traces.jsonl"
    write_seed_traces(
        open_dataset("revos", root, "train"), lines, SeedSettings(**{"frames": 3, "side": 112, **settings})
    )
    if form == "jsonl":
        return lines
    return export(lines, folder / form, Sources.parse([str(root)]), form).files[0]


@pytest.mark.parametrize("form", ["jsonl", "vts_cot", "verl"])
def test_another_side_is_refused_by_name(
    tiny_box_recipe: BoxRecipe, tiny_data: Path, tmp_path: Path, form: str
) -> None:
    file = traces(tiny_data, tmp_path, form)
    assert {record.shown["side"] for record in read_records(file)} == {112}
    named = f"data.0.annotations={file}"
    good = tiny_box_recipe("sft", named)
    assert check_ready(good) == [] and load_traces(good)
    other = tiny_box_recipe("sft", named, "rollout.box_side=140")
    wanted = "pixels of 112 x 112 frames, and rollout.box_side is 140: set rollout.box_side=112, or make the traces"
    (said,) = check_ready(other)
    assert wanted in said and said.startswith(f"data[0].annotations: {file}: trace of ")
    with pytest.raises(DataError, match=wanted):
        load_traces(other)


def test_boxes_in_other_units_are_refused(tiny_box_recipe: BoxRecipe, tiny_data: Path, tmp_path: Path) -> None:
    recipe = tiny_box_recipe(
        "sft", f"data.0.annotations={traces(tiny_data, tmp_path)}", "rollout.box_units=thousandths"
    )
    assert any("rollout.box_units is thousandths: set rollout.box_units=pixels" in said for said in check_ready(recipe))


def test_with_a_mask_beside_them_boxes_are_converted_and_seconds_still_count(
    tiny_recipe: BoxRecipe, tiny_data: Path, tmp_path: Path
) -> None:
    both = ["rollout.environment=combined_answers", "rollout.max_turns=1", "rollout.box_side=96"]
    both.append("rollout.box_units=thousandths")
    assert load_traces(tiny_recipe("sft", f"data.0.annotations={traces(tiny_data, tmp_path)}", *both))
    with pytest.raises(DataError, match="made with 2 frames a second"):
        load_traces(tiny_recipe("sft", f"data.0.annotations={traces(tiny_data, tmp_path, fps=2.0)}", *both))


def test_a_verification_turn_is_refused_by_its_key_alone(
    tiny_recipe: BoxRecipe, tiny_data: Path, tmp_path: Path
) -> None:
    verified = ["rollout.environment=verified_combined", "rollout.max_turns=1", "rollout.box_side=96"]
    said = check_ready(tiny_recipe("sft", f"data.0.annotations={traces(tiny_data, tmp_path)}", *verified))
    assert any("rollout.environment: verified_combined with stage: sft" in words for words in said)


@pytest.mark.parametrize("form", ["jsonl", "vts_cot"])
def test_another_frame_rate_is_refused_by_name(
    tiny_box_recipe: BoxRecipe, tiny_data: Path, tmp_path: Path, form: str
) -> None:
    file = traces(tiny_data, tmp_path, form, fps=2.0)
    with pytest.raises(DataError, match=r"made with 2 frames a second, where frame \d+ is at \d+ s; training counts"):
        load_traces(tiny_box_recipe("sft", f"data.0.annotations={file}"))
    stanza = tmp_path / "at_two.yaml"
    stanza.write_text(json.dumps(_stanza_with_fps(2.0)))
    assert load_traces(tiny_box_recipe("sft", f"data.0.annotations={file}", f"data.0.dataset={stanza}"))


def _stanza_with_fps(fps: float) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((Path(readers.__file__).parents[1] / "datasets" / "revos.yaml").read_text())
    layouts = found["splits"]["train"]
    for files in layouts if isinstance(layouts, list) else [layouts]:
        files["fps"] = fps
    return found


def test_records_that_do_not_say_are_taken(tiny_box_recipe: BoxRecipe, tiny_data: Path, tmp_path: Path) -> None:
    """As released: SPEC 2.7 has no such key."""
    file = traces(tiny_data, tmp_path, "vts_cot")
    records = [{k: v for k, v in record.items() if k != "shown"} for record in json.loads(file.read_text())]
    file.write_text(json.dumps(records))
    recipe = tiny_box_recipe("sft", f"data.0.annotations={file}", "rollout.box_side=140")
    assert check_ready(recipe) == [] and load_traces(recipe)
