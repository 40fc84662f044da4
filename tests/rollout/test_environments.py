"""Registry, settings, prompts and what the two environments say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollout import (
    Action,
    Expression,
    FramePart,
    Masklets,
    Sample,
    StopReason,
    TextPart,
    environment_names,
    get_environment,
    make_environment,
    register_environment,
)
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.errors import RecipeError
from rollout.frames import frame_times, one_a_second, whole_seconds
from rollout.prompts import PromptSet, get_prompts, prompt_names, register_prompts
from tests.rollout.helpers import FACTOR, SETTINGS, turn


def test_import_needs_no_heavy_package() -> None:
    code = (
        "import sys, rollout; rollout.environment_names();"
        "sys.exit(', '.join({'torch', 'ray', 'transformers', 'verl', 'vllm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_environments_are_found_by_name(sample: Sample) -> None:
    assert {"keyframe_exploration", "single_turn_boxes"} <= set(environment_names())
    assert get_environment("single_turn_boxes") is SingleTurnBoxes
    made = make_environment("keyframe_exploration", sample, {"preset": "evaluation", "max_turns": 2}, FACTOR)
    assert isinstance(made, KeyframeExploration)
    assert made.settings == replace(ExplorationSettings.preset("evaluation"), max_turns=2)
    with pytest.raises(RecipeError, match="keyframe_exploration, single_turn_boxes"):
        get_environment("keyframes")
    with pytest.raises(RecipeError, match="already registered"):
        register_environment("single_turn_boxes")(KeyframeExploration)


def test_presets_hold_the_papers_numbers() -> None:
    train, cold, evaluation = (ExplorationSettings.preset(n) for n in ("train", "cold_start", "evaluation"))
    assert (train.temporal_frames, train.spatial_frames) == (10, 5)
    assert (train.temporal_budget, train.spatial_budget, train.keyframe_budget) == (32, 128, 256)
    assert (train.frames_per_turn, train.max_turns) == (5, 3)
    assert cold == replace(train, temporal_frames=20)
    assert (evaluation.temporal_frames, evaluation.spatial_frames) == (20, 8)
    assert (evaluation.temporal_budget, evaluation.spatial_budget, evaluation.keyframe_budget) == (32, 256, 512)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_turn": 2}, "no setting 'max_turn'; it has .*max_turns"),
        ({"max_turns": "2"}, "max_turns = '2': expected int"),
        ({"max_turns": True}, "max_turns = True: expected int"),
        ({"max_turns": 0}, "max_turns = 0: must be at least 1"),
        ({"temporal_frames": -1}, "must not be negative"),
        ({"keyframe_budget": 3}, "keyframe_budget = 3: the least is 4 units"),
        ({"preset": "rl"}, "no exploration preset 'rl'; there are train, cold_start, evaluation"),
        ({"prompts": "long"}, "no prompt set 'long'; there are brief, full"),
    ],
)
def test_bad_settings_name_the_key_and_the_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ExplorationSettings.from_dict(values)


def words(parts: Any) -> list[str]:
    return [f"<{p.frame}>" if isinstance(p, FramePart) else p.text for p in parts]


def test_the_first_look_and_the_follow_up_in_order(sample: Sample) -> None:
    environment = KeyframeExploration(sample, replace(SETTINGS, prompts="brief"), FACTOR)
    begun = environment.begin()
    assert not isinstance(begun, StopReason)
    system, user = begun
    assert (system.role, user.role) == ("system", "user")
    assert words(system.parts) == ["segment"]
    assert words(user.parts) == [
        *["<0>", "<3>", "<7>", "<11>", " low 0 3 7 11"],
        *["<0>", "<11>", " high 0 11"],
        " of 12 find the duck that dives last",
    ]
    followed = environment.step(turn("select", 2, 9, 7))
    assert not isinstance(followed, StopReason)
    (follow,) = followed
    assert words(follow.parts) == [
        *["<2>", "<5>", "<9>", " low 2 5 9"],
        *["<7>", " key 7"],
        " find the duck that dives last",
    ]
    sizes = [(p.height, p.width) for p in user.parts if isinstance(p, FramePart)]
    assert len(set(sizes[:4])) == len(set(sizes[4:])) == 1
    keyframe = follow.parts[-3]
    assert isinstance(keyframe, FramePart)
    assert sizes[0][0] * sizes[0][1] < sizes[4][0] * sizes[4][1] < keyframe.height * keyframe.width


def test_full_prompts_say_the_whole_protocol(sample: Sample) -> None:
    prompts = get_prompts("full")
    for needed in ("<think>", "<select>", "<answer>", "<VTG>", '"keyframe"', "[SEG]", "Step 1", "Step 3", "Action"):
        assert needed in prompts.system
    parts = prompts.first_user_parts([FramePart(0, 32, 32)], [FramePart(5, 32, 32)], "a {weird} query", 12)
    text = " ".join(p.text for p in parts if isinstance(p, TextPart))
    assert "a {weird} query" in text and "12 frames" in text and "0 to 11" in text


def test_no_prompt_writes_seg_after_the_first_message() -> None:
    for name in prompt_names():  # a [SEG] in a later user message would be counted as the policy's
        prompts = get_prompts(name)
        later = prompts.follow_up_parts([FramePart(0, 32, 32)], FramePart(1, 32, 32), "q", 3)
        assert "[SEG]" not in " ".join(p.text for p in later if isinstance(p, TextPart))


def test_a_second_prompt_set_of_one_name_is_refused() -> None:
    fields = dict.fromkeys(("system", "temporal", "spatial", "question", "interval", "keyframe", "reminder"), "x")
    with pytest.raises(RecipeError, match="already registered"):
        register_prompts(PromptSet(name="full", **fields))


def test_spatial_frames_outside_the_clip_refuse_it(sample: Sample) -> None:
    assert KeyframeExploration(sample, SETTINGS, FACTOR, spatial_frames=[3, 12]).begin() is StopReason.REFUSED_CLIP


def box_masks(sample: Sample, frames: dict[int, int]) -> Sample:
    from pycocotools import mask as coco_mask

    clip = sample.clip
    rles = []
    for t in range(clip.num_frames):
        mask = np.zeros((clip.height, clip.width), dtype=np.uint8, order="F")
        mask[: frames.get(t, 0)] = 1
        rles.append(coco_mask.encode(mask) if t in frames else None)
    return replace(sample, masklets=Masklets(clip.height, clip.width, (tuple(rles),), clip.num_frames))


def test_boxes_shows_timestamped_square_frames(sample: Sample) -> None:
    settings = BoxSettings(frames=3, side=64, sampling="evenly_spaced", prompts="brief", fps=2.0)
    environment = SingleTurnBoxes(sample, settings, 32)
    begun = environment.begin()
    assert not isinstance(begun, StopReason)
    assert words(begun[1].parts) == [
        *[" 0 ", "<0>", " 2 ", "<4>", " 5 ", "<10>"],  # the last whole second begins with frame 10
        " find the duck that dives last",
    ]
    assert all((p.height, p.width) == (64, 64) for p in begun[1].parts if isinstance(p, FramePart))


@pytest.mark.parametrize(
    ("fps", "given", "frames", "timestamps"),
    [
        (None, 0.0, (0, 3, 7, 11), (0, 3, 7, 11)),  # of unknown rate: a frame is a second
        (0.5, 0.0, (0, 3, 7, 11), (0, 6, 14, 22)),
        (3.0, 0.0, (0, 3, 6, 9), (0, 1, 2, 3)),  # the clip at one frame a second
        (2.5, 0.0, (0, 3, 5, 10), (0, 1, 2, 4)),  # of frames 0, 3, 5, 8, 10
        (30.0, 0.0, (0,), (0,)),
        (3.0, 1.0, (0, 3, 7, 11), (0, 3, 7, 11)),  # as if it had one frame a second
    ],
)
def test_boxes_see_a_clip_at_one_frame_a_second(
    sample: Sample, fps: float | None, given: float, frames: tuple[int, ...], timestamps: tuple[int, ...]
) -> None:
    clip = replace(sample.clip, fps=fps)
    settings = BoxSettings(frames=4, side=64, sampling="evenly_spaced", fps=given)
    environment = SingleTurnBoxes(replace(sample, clip=clip), settings, 32)
    assert (environment.frames, environment.timestamps) == (frames, timestamps)
    assert settings.timestamps(clip, frames) == timestamps


@pytest.mark.parametrize("fps", [0.1, 1.0, 6.0, 24.0, 29.97, 30000 / 1001, 59.94])
def test_no_two_frames_of_a_clip_at_one_frame_a_second_share_a_second(fps: float) -> None:
    times = np.arange(2000) / fps
    frames = one_a_second(times)
    seconds = whole_seconds(times[frames])
    assert len(set(seconds)) == len(frames) == len(set(whole_seconds(times)))
    assert seconds[:3] == (0, 1, 2) or fps < 1


def test_seconds_are_those_of_the_time_stamps(sample: Sample) -> None:
    """A screen recording: frames come when something moves. By index and mean rate, frame 11 is shown at 9.2 s."""
    times = (0.0, 0.1, 0.2, 0.3, 1.5, 1.6, 9.0, 9.1, 9.2, 9.3, 9.4, 9.999)
    clip = replace(sample.clip, fps=11 / 9.999, times=times)
    settings = BoxSettings(frames=4, side=64, sampling="evenly_spaced")
    environment = SingleTurnBoxes(replace(sample, clip=clip), settings, 32)
    assert (environment.frames, environment.timestamps) == ((0, 4, 6), (0, 1, 9))
    assert frame_times(clip, 2.0).tolist() == [t / 2 for t in range(12)]  # as it was told to be


def test_a_short_clip_is_shown_whole_in_training(sample: Sample) -> None:
    settings = ExplorationSettings.preset("train")
    short = replace(sample, clip=replace(sample.clip, frames=sample.clip.frames[:11]))

    def first(sample: Sample, **other: Any) -> list[int]:
        begun = KeyframeExploration(sample, replace(settings, **other), FACTOR).begin()
        assert not isinstance(begun, StopReason)
        return list(begun[1].frames)

    assert first(short)[:-5] == [*range(11)]  # 10 are asked for
    assert first(short, spare_frames=0)[:-5] == [*range(9), 10]
    assert first(sample)[:-5] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert first(sample)[-5:] == [0, 2, 5, 8, 11]


def test_boxes_sample_keyframes_among_one_frame_a_second(sample: Sample) -> None:
    visible = box_masks(sample, {2: 10, 5: 40, 6: 30, 7: 20, 9: 50})
    at_three = replace(visible, clip=replace(visible.clip, fps=3.0))
    asked = [replace(at_three, expression=Expression(str(i), "duck")) for i in range(20)]
    seen = {SingleTurnBoxes(s, BoxSettings(frames=3, side=64), 32).frames for s in asked}
    assert seen == {(0, 6), (3, 9)}  # every second one of 0, 3, 6, 9


@pytest.mark.parametrize(
    ("reply", "stop", "action", "keyframe"),
    [
        ('{"keyframe_timestamp": 11, "bbox_2d_list": [[0, 0, 5, 5], "x"]}', StopReason.ANSWERED, Action.ANSWER, 11),
        ('{"keyframe_timestamp": 11, "bbox_2d_list": [[0, 0, 5, 5]]}', StopReason.ANSWERED, Action.ANSWER, 11),
        ('{"keyframe_timestamp": 4, "bbox_2d_list": []}', StopReason.ANSWERED, Action.ANSWER, 4),  # not a shown time
        (
            '{"keyframe_timestamp": 12, "bbox_2d_list": [[0, 0, 5, 5]]}',
            StopReason.BAD_ACTION,
            None,
            6,
        ),  # not in the clip
        ('{"keyframe_timestamp": -1, "bbox_2d_list": [[0, 0, 5, 5]]}', StopReason.BAD_ACTION, None, 6),
        ('{"keyframe_timestamp": 4, "bbox_2d_list": ["x"]}', StopReason.BAD_ACTION, None, 6),  # nothing to draw
        ('{"keyframe_timestamp": "x"}', StopReason.BAD_ACTION, None, 6),
    ],
)
def test_boxes_end_after_one_turn(
    sample: Sample, reply: str, stop: StopReason, action: Action | None, keyframe: int
) -> None:
    environment = SingleTurnBoxes(sample, BoxSettings(frames=3, side=64, sampling="evenly_spaced"), 32)
    environment.begin()
    assert environment.step(f"<think>a</think><answer>{reply}</answer>") is stop
    episode = environment.episode(stop)
    assert [(t.action, t.keyframe, t.shown) for t in episode.turns] == [(action, keyframe, (0, 5, 11))]
    assert (environment.answer is None) == (action is None)


def test_seconds_that_were_not_shown(sample: Sample) -> None:
    """Frame of a second: the first in it; of a clip slower than one a second, the last before it."""
    fast, slow = (replace(sample.clip, fps=fps) for fps in (2.0, 0.5))
    anything, shown = (BoxSettings(sampling="evenly_spaced", unseen_seconds=u) for u in (True, False))
    assert [anything.frame_at(fast, (1, 11), s) for s in (0, 3, 5, 6, -1)] == [1, 6, 11, None, None]
    assert [anything.frame_at(slow, (0,), s) for s in (0, 1, 2, 22, 23)] == [0, 0, 1, 11, None]
    assert [shown.frame_at(fast, (1, 11), s) for s in (0, 3, 5)] == [1, None, 11]


def test_boxes_sample_the_same_frames_for_a_whole_group(sample: Sample) -> None:
    visible = box_masks(sample, {2: 10, 5: 40, 6: 30, 7: 20, 9: 50})
    group = {SingleTurnBoxes(visible, BoxSettings(frames=4, side=64), 32).frames for _ in range(5)}
    assert len(group) == 1
    others = {
        SingleTurnBoxes(
            replace(visible, expression=Expression(str(i), "duck")), BoxSettings(frames=4, side=64), 32
        ).frames
        for i in range(20)
    }
    assert len(others) > 1
    assert {f[0] for f in others} <= {2, 1, 3}  # 2, 5, 6, 7, 9 modulo ceil(12 / 3)
    with pytest.raises(RecipeError, match="ducks/0 has no masks; use sampling = evenly_spaced"):
        SingleTurnBoxes(sample, BoxSettings(side=64), 32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampling": "random"}, "expected keyframe_congruent or evenly_spaced"),
        ({"frames": 1}, "at least 2 frames"),
        ({"fps": -1}, "no negative rate"),
        ({"prompts": "x"}, "no box prompts 'x'; there are full, brief"),
    ],
)
def test_bad_box_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BoxSettings.from_dict(values)


def test_a_side_off_the_grid_is_refused(sample: Sample) -> None:
    with pytest.raises(RecipeError, match="side = 560 is not a multiple of 32"):
        SingleTurnBoxes(sample, BoxSettings(sampling="evenly_spaced"), 32)
