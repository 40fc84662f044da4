"""What stands in for a pretrained policy's reading: conversations on legible frames, learnt in a plain loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from data_construction.cot import legible
from data_construction.readers import open_dataset
from data_construction.readers.records import read_vts_cot
from data_construction.synthetic import make_synthetic
from rollout.errors import DataError
from verl_ext.policy.pictures import PixelValues
from verl_ext.quickstart import stages
from verl_ext.quickstart.exploring import exploring_settings
from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.supervised.unreadable import stand_in
from verl_ext.tiny.centre import model_inputs
from verl_ext.tiny.warm_up_reading import ROW, ReadingSettings, warm_up_reading, with_pixels


@pytest.fixture(scope="module")
def settings() -> QuickstartSettings:
    full = exploring_settings("cpu")
    small: dict[str, Any] = {
        "hidden": 64,
        "layers": 1,
        "vision_hidden": 32,
        "vision_layers": 1,
        "vision_positions": 256,
    }
    return replace(
        full,
        clips={"train": 2, "valid": 1, "test": 1},
        size=128,
        policy={**small, "vision_positions": 256},
        warm_up_steps=1,
        reading={"steps": 16, "batch": 8, "rise_steps": 2, "lr": 3e-3},
        dialogues={"steps": 4, "batch": 8},
        reading_frames=3,
        segmentation=(*full.segmentation, "rollout.budgets.spatial=21"),
    )


@pytest.fixture(scope="module")
def layout(settings: QuickstartSettings, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("reading"))
    stages.make_data(layout, settings, 0, lambda *_: None)
    return layout


@pytest.mark.parametrize(
    ("ious", "start", "tries"), [((0.9,), 0, 1), ((0.3, 0.9), 1, 2), ((0.3, 0.5, 0.4), 1, 3), ((0.5, 0.5, 0.5), 0, 3)]
)
def test_a_segmenter_that_draws_badly_is_begun_anew_and_the_best_is_kept(
    layout: Layout,
    settings: QuickstartSettings,
    monkeypatch: pytest.MonkeyPatch,
    ious: tuple[float, ...],
    start: int,
    tries: int,
) -> None:
    seeds, left = [], iter(ious)

    def trained(segmenter: Any, samples: Any, words: Any, steps: int, seed: int, *_: Any) -> dict[str, float]:
        seeds.append((segmenter.config.seed, seed))
        return {"frame_iou": next(left)}

    monkeypatch.setattr("verl_ext.tiny.warm_up.warm_up_segmenter", trained)
    segmenter, _, found = stages._warmed_up(layout, settings, 7, {}, lambda *_: None)
    assert found == {"frame_iou": ious[start], "start": start}
    assert segmenter.config.seed == 7 + 1000 * start
    assert seeds == [(7 + 1000 * i, 7 + 1000 * i) for i in range(tries)]


def test_a_legible_frame_is_shown_and_its_marks_are_told(layout: Layout) -> None:
    data = open_dataset("revos", layout.data, "train")
    records = read_vts_cot(layout.data / legible.FILE, dataset=data)
    samples = {s.expression.text + s.clip.name: s for s in data.samples()}
    assert len(samples) == 8 and len(records) == 3 * 8
    assert len({(r.video_name, r.exp, r.sample_frame_indice) for r in records}) == len(records), "each another frame"
    for record in records:
        sample = samples[record.exp + record.video_name]
        assert set(record.sample_frame_indice) <= set(sample.expression.legible)
        listed, _, said = record.replies[0].partition("Step 3: query about ")
        mark, place = said.split("<")[0].split(" ", 1)
        assert mark in record.exp and f"{mark} {place}" in listed and listed.count(",") == 3


def test_a_world_without_marks_has_nothing_to_read(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no frame shows the mark of its target"):
        legible.write_reading_file(open_dataset("revos", tiny_data, "train"), tmp_path / "r.json", 0)


def test_the_policy_that_is_saved_has_read_and_only_that(
    layout: Layout, settings: QuickstartSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_ext.policy.checkpoint import load_policy

    seen: list[float] = []
    lessons: list[list[int]] = []

    def noted(model: Any, read: Any, *rest: Any) -> dict[str, float]:
        lessons.append([len(item.grids) for item in read])
        return warm_up_reading(model, read, *rest)

    monkeypatch.setattr("verl_ext.tiny.warm_up_reading.warm_up_reading", noted)

    def progress(done: int, total: int, what: str) -> None:
        if what.startswith("reading"):
            seen.append(float(what.rsplit(" ", 1)[1]))

    stages.build_policy(layout, settings, 0, progress)
    taught = load_policy(layout.untrained).state_dict()
    assert len(seen) == 16 + 4 and seen[15] < 0.7 * seen[0]
    assert lessons[0] == [1] * 24, "single frames alone, first"
    assert lessons[1][:6] == [1] * 6 and min(lessons[1][6:]) > 1, "then traces, with a quarter of those frames"
    told = json.loads((layout.out / "warm_up.json").read_text())
    assert (told["reading_steps"], told["dialogues_steps"]) == (16, 4)
    plain = replace(settings, reading=None)
    other = Layout(layout.out / "plain")
    make_synthetic_link(layout, other)
    stages.build_policy(other, plain, 0, lambda *_: None)
    before = load_policy(other.untrained).state_dict()
    moved = {n for n in taught if not torch.equal(taught[n], before[n])}
    assert any("visual" in n for n in moved) and any("language_model" in n for n in moved)
    head = {n for n in moved if n.startswith(("grounding_encoder", "text_hidden_fcs"))}
    assert head == {n for n in taught if n.startswith("text_hidden_fcs")}, "SAM 2 stays, the projection points"


def test_the_last_seg_of_a_dialogue_about_one_object_points() -> None:
    """The first one is written before the disc has been read."""
    prompts = {"7": torch.ones(4)}

    def item(objects: tuple[str, ...], *turns: list[int]) -> dict[str, Any]:
        return {
            "sample": {"expression": {"anno_ids": objects}},
            "episode": {"turns": [{"seg_positions": at} for at in turns]},
        }

    pointing = stages._pointing(item(("7",), [12], [40]), prompts)
    assert pointing is not None and pointing.at == 40 and torch.equal(pointing.prompt, prompts["7"])
    assert stages._pointing(item(("7", "8"), [12], [40]), {**prompts, "8": torch.zeros(4)}) is None
    assert stages._pointing(item(("7",), [], []), prompts) is None
    assert stages._pointing(item(("9",), [12]), prompts) is None, "nothing is known that draws it"


def test_a_frame_that_cannot_be_read_is_named(layout: Layout) -> None:
    """What stands for its conversation has no picture to learn reading from."""
    sample = next(iter(open_dataset("revos", layout.data, "train").samples()))
    lost = stand_in(sample, DataError("clip a, frame 3, file x.jpg: cannot be read"), token=0)
    with pytest.raises(DataError, match=r"reading warm-up: clip a, frame 3, file x\.jpg"):
        next(with_pixels([lost], None))
    with pytest.raises(DataError, match=r"reading warm-up: no conversations"):
        warm_up_reading(None, [], ReadingSettings())


def test_pixels_that_are_made_together_are_each_conversations_own(
    layout: Layout, settings: QuickstartSettings, tiny_policy: Path
) -> None:
    """More than one row of them, of one picture and of several sizes, in the order in which they come."""
    processor = AutoProcessor.from_pretrained(tiny_policy)
    items: list[Any] = []
    for recipe in ("segmentation.yaml", "cold_start.yaml"):
        found = stages._conversations(layout, settings, recipe, 0, processor)
        items += [found[i] for i in range(len(found))] * 3
    assert len(items) > ROW
    alone = PixelValues(processor.image_processor)
    for item, made in zip(items, with_pixels(items, processor.image_processor), strict=True):
        expected = model_inputs(item, alone)
        assert made.grids is not None and isinstance(made.pixels, torch.Tensor)
        assert torch.equal(made.grids, expected["image_grid_thw"])
        assert torch.equal(made.pixels, expected["pixel_values"])
        assert made.ids is item["input_ids"]


def make_synthetic_link(layout: Layout, other: Layout) -> None:
    """The same data for another policy."""
    other.out.mkdir()
    other.data.symlink_to(layout.data, target_is_directory=True)


def test_data_is_made_as_before_for_a_world_without_reading(tmp_path: Path) -> None:
    assert QuickstartSettings().reading is None
    report = make_synthetic(tmp_path / "d", {"train": 1}, seed=0, frames=(48, 48), size=128, world="badges")
    assert report.traces == 4 and not (tmp_path / "d" / legible.FILE).exists()
