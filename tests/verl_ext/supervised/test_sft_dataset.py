"""Recorded traces become the sequences that reinforcement would have had."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

import verl_ext.supervised.dataset as sft_dataset
from rollout.errors import DataError
from verl_ext.recipe import Recipe
from verl_ext.supervised.dataset import SFTDataset


@pytest.fixture(scope="module")
def processor(tiny_policy: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_policy)


@pytest.fixture
def dataset(
    tiny_recipe: Callable[..., Recipe], activate: Callable[[Recipe], Recipe], processor: Any
) -> Callable[..., SFTDataset]:
    def build(*overrides: str, files: Any = ("train",)) -> SFTDataset:
        activate(tiny_recipe("sft", *overrides))
        return SFTDataset(list(files), processor.tokenizer, None, processor)

    return build


def test_loss_mask_covers_the_recorded_replies_and_nothing_else(dataset: Any, processor: Any) -> None:
    data = dataset()
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    turns = set()
    for i, (_, record) in enumerate(data.items):
        row = data[i]
        sampled = row["input_ids"][row["loss_mask"].bool()].tolist()
        expected = [t for r in record.replies for t in [*processor.tokenizer.encode(r), end]]
        assert sampled == expected
        turns.add(len(record.replies))
    assert turns == {1, 2}


def test_every_seg_token_has_its_state_and_the_images_fill_their_placeholders(dataset: Any, processor: Any) -> None:
    data = dataset()
    seg, pad = (processor.tokenizer.convert_tokens_to_ids(t) for t in ("[SEG]", "<|image_pad|>"))
    for i in range(len(data)):
        row = data[i]
        found = torch.nonzero(row["input_ids"] == seg).flatten().tolist()
        assert found == [p for t in row["episode"]["turns"] for p in t["seg_positions"]]
        patches = int(torch.as_tensor(row["multi_modal_inputs"]["image_grid_thw"]).prod(dim=1).sum())
        assert int((row["input_ids"] == pad).sum()) == patches // 4
        assert row["position_ids"].shape == (4, len(row["input_ids"]))


def test_traces_with_boxes_teach_both_where_both_are_asked_for(
    dataset: Any, processor: Any, tiny_box_traces: Path
) -> None:
    """Their side (112) and units (pixels) are not this recipe's; the [SEG] is drawn where the answer says."""
    both = [
        "rollout.environment=combined_answers",
        "rollout.max_turns=1",
        "rollout.box_frames=3",
        "rollout.box_side=96",
    ]
    data = dataset(*both, "rollout.box_units=thousandths", f"data.0.annotations={tiny_box_traces}")
    seg = processor.tokenizer.convert_tokens_to_ids("[SEG]")
    for i, (_, record) in enumerate(data.items):
        row = data[i]
        (turn,) = row["episode"]["turns"]
        given = json.loads(record.replies[0].split("<answer>")[1].split("</answer>")[0])
        answer = json.loads(turn["text"].split("<answer>")[1].split("</answer>")[0])
        assert answer["bbox_2d_list"] == [[round(edge * 1000 / 112) for edge in box] for box in given["bbox_2d_list"]]
        assert answer["mask"] == "[SEG]" and turn["action"] == "answer"
        assert torch.nonzero(row["input_ids"] == seg).flatten().tolist() == turn["seg_positions"]
        assert turn["keyframe"] in record.sample_frame_indice == tuple(row["episode"]["spatial_frames"])


def test_traces_without_boxes_are_refused_by_name_where_both_are_asked_for(dataset: Any) -> None:
    words = r"vts_cot_train.json: trace of train_\d+/\d+: a reply is no answer with boxes .*videoseg data cot seed"
    with pytest.raises(DataError, match=words):
        dataset("rollout.environment=combined_answers", "rollout.max_turns=1", "rollout.box_side=96")


@pytest.mark.parametrize(
    ("pattern", "written", "words"),
    [
        (r'"keyframe_timestamp": \d+', '"keyframe_timestamp": 99', "names a second that the clip does not have"),
        (r'"bbox_2d_list": ', '"bbox_2d_list": not ', r"cannot be read \(.+\)"),
    ],
)
def test_an_answer_that_cannot_be_used_is_refused(
    tiny_box_recipe: Callable[..., Recipe],
    activate: Callable[[Recipe], Recipe],
    tiny_box_traces: Path,
    tmp_path: Path,
    pattern: str,
    written: str,
    words: str,
) -> None:
    """A mask or box would be learnt on whichever frame stands in."""
    line = json.loads(tiny_box_traces.read_text().splitlines()[0])
    for turn in line["record"]["conversations"]:
        turn["value"] = re.sub(pattern, written, turn["value"])
    (tmp_path / "traces.jsonl").write_text(json.dumps(line) + "\n")
    recipe = activate(tiny_box_recipe("sft", f"data.0.annotations={tmp_path / 'traces.jsonl'}"))
    processor = AutoProcessor.from_pretrained(recipe.policy.path)
    with pytest.raises(DataError, match=rf"trace of train_\d+/\d+: its answer {words}; correct it"):
        SFTDataset(["train"], processor.tokenizer, None, processor)


def test_second_turn_sees_the_keyframe_that_the_trace_selected(dataset: Any) -> None:
    data = dataset()
    i = next(i for i, (_, r) in enumerate(data.items) if len(r.replies) == 2)
    record, episode = data.items[i][1], data[i]["episode"]
    assert episode["turns"][1]["keyframe"] == record.cot_trace[0].keyframe
    assert episode["spatial_frames"] == tuple(record.sample_frame_indice)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["rollout.response_length=120", "rollout.turn_length=60"],
            r"\(context_full\) after 1 of 2 turns; .*response_length 120 .* raise what is too small",
        ),
        (["rollout.prompt_length=50"], r"\(context_full\) after 0 of [12] turns; .*rollout.prompt_length 50"),
        (["rollout.max_turns=1"], r"\(turn_limit\) after 1 of 2 turns; rollout.max_turns is 1: raise it to 2"),
    ],
)
def test_traces_that_do_not_fit_stop_before_training_with_their_remedy(
    dataset: Any, overrides: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=r"trace of \S+: the dialogue stopped " + words):
        dataset(*overrides)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda reply: reply.replace("</select>", "</answer>"), r"\(bad_action\) .* no <select> or <answer>"),
        (lambda reply: reply.replace("select>", "answer>"), r"\(answered\) .* before the last one answers"),
    ],
)
def test_a_trace_whose_replies_are_wrong_says_what_is_wrong(dataset: Any, edit: Any, words: str) -> None:
    data = dataset()
    sample, record = next(item for item in data.items if len(item[1].replies) == 2)
    first, last = record.replies
    wrong = SimpleNamespace(**{n: getattr(record, n) for n in ("sample_frame_indice", "selections")})
    wrong.replies = (edit(first), last)
    assert wrong.replies[0] != first
    with pytest.raises(DataError, match=rf"trace of {sample.id}: .*{words}"):
        data._replay(sample, wrong)


def test_only_the_longest_traces_are_looked_at_before_training_and_processes_share_them(
    dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(SFTDataset, "_replay", lambda self, sample, record: seen.append(record))
    monkeypatch.setattr(sft_dataset, "CHECKED", 4)
    data = dataset("data.0.weight=2.0")
    assert len(seen) == len({id(r) for r in seen}) == 4  # none twice, though each is shown twice
    shortest = min(map(sft_dataset._length, seen))
    assert shortest >= sorted((sft_dataset._length(r) for _, r in data.items[: len(data) // 2]), reverse=True)[3]
    whole, seen[:] = list(seen), []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        dataset("data.0.weight=2.0")
    assert sorted(sft_dataset._length(r) for r in seen) == sorted(sft_dataset._length(r) for r in whole)


def test_without_annotations_there_is_nothing_to_learn_from(dataset: Any) -> None:
    with pytest.raises(DataError, match="VTS-CoT"):
        dataset("data.0.annotations=null")


def test_held_out_traces_are_drawn_by_seed(dataset: Any, tiny_data: Path) -> None:
    source = {"dataset": "revos", "root": str(tiny_data), "split": "train"}
    source["annotations"] = str(tiny_data / "vts_cot_train.json")
    val = f"val=[{json.dumps(source)}]"
    data = dataset(val, "trainer.eval_samples=4", files=("held_out",))
    again = dataset(val, "trainer.eval_samples=4", files=("held_out",))
    assert len(data) == 4
    assert [s.id for s, _ in data.items] == [s.id for s, _ in again.items]
