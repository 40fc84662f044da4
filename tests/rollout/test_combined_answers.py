"""Boxes and ``[SEG]`` in one answer, read by the protocol of boxes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rewards import BoxRewardInput, CombinedRewardInput, RewardInput, compute_rewards
from rewards.types import PropagatedScores
from rollout.environment import answers_of, make_environment
from rollout.environments.combined_answers import CombinedAnswers, CombinedSettings
from rollout.errors import RecipeError
from rollout.messages import TextPart
from rollout.prompts import CombinedPromptSet, get_prompts, prompt_names
from rollout.types import Action, Clip, Expression, Sample, StopReason

CLIP = Clip("ducks", tuple(f"{t}.jpg" for t in range(12)), 48, 64)
SAMPLE = Sample(CLIP, Expression("0", "the duck that dives", ("1",)))
SETTINGS = {"frames": 3, "side": 64, "sampling": "evenly_spaced"}


def reply(mask: Any = "[SEG]", second: Any = 5, boxes: Any = ((1, 2, 30, 40),)) -> str:
    body = json.dumps({"keyframe_timestamp": second, "bbox_2d_list": [list(b) for b in boxes], "mask": mask})
    return f"<think>It dives.</think><answer>{body}</answer>"


def played(text: str) -> tuple[Any, CombinedAnswers]:
    environment = make_environment("combined_answers", SAMPLE, SETTINGS, 32)
    assert isinstance(environment, CombinedAnswers)
    environment.begin()
    return environment.step(text), environment


@pytest.mark.parametrize(
    ("text", "stop", "keyframe", "boxes"),
    [
        (reply(), StopReason.ANSWERED, 5, 1),
        (reply(boxes=[]), StopReason.ANSWERED, 5, 0),
        (reply(mask=None, boxes=[]), StopReason.ANSWERED, 5, 0),
        (reply(mask=None), StopReason.ANSWERED, 5, 1),
        (reply(second=7), StopReason.ANSWERED, 7, 1),
        (reply(second=99), StopReason.BAD_ACTION, 6, None),
        ("<think>a</think><answer>[SEG]</answer>", StopReason.BAD_ACTION, 6, None),
        ("[SEG]", StopReason.BAD_ACTION, 6, None),
    ],
)
def test_boxes_are_read_beside_the_mask(text: str, stop: StopReason, keyframe: int, boxes: int | None) -> None:
    found, environment = played(text)
    (turn,) = environment.episode(found).turns
    assert (found, turn.keyframe) == (stop, keyframe)
    assert (turn.action is Action.ANSWER) == (boxes is not None)
    assert (None if environment.answer is None else len(environment.answer.boxes)) == boxes


def test_it_holds_both_and_is_asked_in_words_of_its_own() -> None:
    assert answers_of("combined_answers") == "both"
    assert {"full", "brief"} <= set(prompt_names(CombinedPromptSet))
    for name in prompt_names(CombinedPromptSet):
        get_prompts(name, CombinedPromptSet).check()
    messages = make_environment("combined_answers", SAMPLE, SETTINGS, 32).begin()
    assert isinstance(messages, list)
    system, user = ("".join(p.text for p in m.parts if isinstance(p, TextPart)) for m in messages)
    assert '"mask": "[SEG]"' in system and "[SEG]" not in user and "the duck that dives" in user
    with pytest.raises(RecipeError, match="no prompts for boxes and a mask 'x'; there are full, brief"):
        CombinedSettings.from_dict({"prompts": "x"})


def test_users_prompts_may_not_write_the_token(tmp_path: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('base: full\nquestion: "find {query} [SEG]"\n')
    with pytest.raises(RecipeError, match=r"question holds \[SEG\], which only the policy may write"):
        get_prompts(str(file), CombinedPromptSet)


def scored(text: str) -> CombinedRewardInput:
    seg = RewardInput([text], [1], [[0.9, 0.5]], [0.8], propagated=PropagatedScores([0.5], [0.75], [True]))
    truth = [[[1, 2, 30, 40]], [[0, 0, 0, 0]]]
    return CombinedRewardInput(seg, BoxRewardInput(text, [5, 9], truth, [50, 0], propagated=seg.propagated))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (reply(), 3.0),
        (reply(mask=None, boxes=[]), 3.0),
        (reply(mask="seg"), 2.0),
        (reply().replace("dives", "dives, [SEG]"), 2.0),
        (reply(boxes=[]), 2.0),
        (reply(mask=None), 2.0),
        (reply(boxes=[(1, 2, 30, 40), (1,)]), 2.5),
        ("x", 0.0),
        ("[SEG]", 0.0),
    ],
)
def test_format(text: str, form: float) -> None:
    assert compute_rewards(scored(text), ["combined_format"])["combined_format"] == form


def test_each_reward_scores_its_part() -> None:
    names = ["veason_keyframe", "veason_spatial", "mask_iou", "keyframe_iou", "propagated_jf"]
    found = compute_rewards(scored(reply()), names)
    assert found["veason_keyframe"] == found["veason_spatial"] == 1.0
    assert found["mask_iou"] == pytest.approx((1.5 + 0.3) / 2) and found["keyframe_iou"] == pytest.approx(2.0)
    assert found["propagated_jf"] == pytest.approx(0.625)
    with pytest.raises(RecipeError, match="'combined_format' scores CombinedRewardInput, found RewardInput"):
        compute_rewards(scored(reply()).seg, ["combined_format"])
