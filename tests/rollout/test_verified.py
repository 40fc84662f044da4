"""The verification turn: its rules, and that nothing but the policy's own masks can be in its pictures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import answers_of, environment_names, make_environment, verifies
from rollout.episode import replay, roll_out, scripted, seg_of_turns
from rollout.errors import RecipeError
from rollout.messages import FramePart, TextPart
from rollout.overlay import COLOUR, draw_mask
from rollout.pictures import Picture, PictureStore
from rollout.types import RLE, Action, Clip, Episode, Expression, Masklets, Sample, StopReason, Turn, Verdict
from rollout.verification import FRAMES, MasksWanted, first_answer, last_answer, others, read_verdict
from tests.rollout.helpers import build_tokenizer

HEIGHT, WIDTH, TOTAL = 64, 96, 12
BOXES = {"frames": 3, "side": 64, "sampling": "evenly_spaced"}
MASKS = {"temporal_frames": 2, "spatial_frames": 2, "frames_per_turn": 2, "max_turns": 2, "spatial_budget": 4}
TURN = '<think>x</think><{tag}><VTG>{{"start": 0, "end": 9, "keyframe": {k}}}</VTG> <RefSeg> [SEG] </RefSeg></{tag}>'
KINDS = {"verified_boxes": BOXES, "verified_masks": MASKS, "verified_combined": BOXES}


def boxed(second: int = 5, boxes: Any = ((1, 2, 30, 40),)) -> str:
    body = json.dumps({"keyframe_timestamp": second, "bbox_2d_list": [list(b) for b in boxes]})
    return f"<think>a</think><answer>{body}</answer>"


FIRST = {
    "verified_boxes": [boxed()],
    "verified_masks": [TURN.format(tag="select", k=5), TURN.format(tag="answer", k=2)],
    "verified_combined": [boxed().replace("]]}", ']], "mask": "[SEG]"}')],
}


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    rng = np.random.default_rng(0)
    paths = []
    for t in range(TOTAL):
        paths.append(str(tmp_path / f"{t}.png"))
        Image.fromarray(rng.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(paths[-1])
    return Sample(Clip("ducks", tuple(paths), HEIGHT, WIDTH), Expression("0", "the duck", ("1",)))


def rle_of(mask: np.ndarray[Any, Any]) -> RLE:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def square(x: int = 10, side: int = 30) -> RLE:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10 : 10 + side, x : x + side] = True
    return rle_of(mask)


NOTHING = rle_of(np.zeros((HEIGHT, WIDTH), dtype=bool))


def played(sample: Sample, kind: str, *replies: str, masks: Any = square) -> tuple[Any, list[Any], Any]:
    """(environment, outcomes, what it wanted drawn); masks come as soon as they are wanted."""
    environment: Any = make_environment(kind, sample, {**KINDS[kind], FRAMES: 2}, 32)
    outcomes, wanted = [environment.begin()], None
    for reply in replies:
        outcome = environment.step(reply)
        if isinstance(outcome, MasksWanted):
            wanted = outcome
            outcome = environment.see({t: masks() for t in outcome.frames})
        outcomes.append(outcome)
    return environment, outcomes, wanted


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_shown_its_own_masks(sample: Sample, kind: str) -> None:
    _, outcomes, wanted = played(sample, kind, *FIRST[kind])
    assert wanted.frames == (0, 5, 11), "the keyframe and two others, by number alone"
    (message,) = outcomes[-1]
    frames = [p for p in message.parts if isinstance(p, FramePart)]
    assert [p.frame for p in frames] == [0, 5, 11] and {p.drawn for p in frames} == {square()["counts"]}
    said = "".join(p.text for p in message.parts if isinstance(p, TextPart))
    assert "0, 5, 11; 5 is your keyframe" in said and "the duck" in said and "No mask" not in said
    assert verifies(kind) and answers_of(kind) == {"boxes": "boxes", "masks": "masks", "combined": "both"}[kind[9:]]
    assert not any(verifies(name) for name in environment_names() if name not in KINDS)
    if kind == "verified_masks":
        assert len({p.height * p.width for p in frames}) == 2, "the keyframe is larger, as keyframes are"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("said", "verdict", "stop"),
    [
        ("<think>good</think><answer>confirm</answer>", Verdict.CONFIRMED, StopReason.ANSWERED),
        ("<answer> Confirmed. </answer>", Verdict.CONFIRMED, StopReason.ANSWERED),
        ("<think>bad</think><answer>no target</answer>", Verdict.NO_TARGET, StopReason.ANSWERED),
        ("<think><answer>no target</answer></think><answer>confirm</answer>", Verdict.CONFIRMED, StopReason.ANSWERED),
        ("<answer>No_Target</answer>", Verdict.NO_TARGET, StopReason.ANSWERED),
        ("confirm", Verdict.UNREAD, StopReason.BAD_ACTION),
        ("", Verdict.UNREAD, StopReason.BAD_ACTION),
        ("<answer>perhaps</answer>", Verdict.UNREAD, StopReason.BAD_ACTION),
    ],
)  # fmt: skip
def test_verdicts(sample: Sample, kind: str, said: str, verdict: Verdict, stop: StopReason) -> None:
    environment, outcomes, _ = played(sample, kind, *FIRST[kind], said)
    assert outcomes[-1] is stop
    episode = environment.episode(stop)
    assert episode.verdict is verdict and len(episode.turns) == len(FIRST[kind]) + 1
    assert episode.turns[-1].shown == (0, 5, 11)
    assert [t.text for t in first_answer(episode).turns] == FIRST[kind]
    last = last_answer(episode)
    assert last.verdict is None
    if verdict is Verdict.NO_TARGET:
        assert last.texts == [said] and last.turns[0].action is Action.ANSWER
    else:
        assert last.texts == FIRST[kind]


def test_a_correction_is_read_by_the_dialogue_itself(sample: Sample) -> None:
    environment, _, _ = played(sample, "verified_boxes", boxed(), boxed(11, [(0, 0, 9, 9)]))
    episode = environment.episode(StopReason.ANSWERED)
    assert episode.verdict is Verdict.CORRECTED and last_answer(episode).texts == [boxed(11, [(0, 0, 9, 9)])]
    assert episode.turns[-1].keyframe == 11 and episode.turns[0].keyframe == 5
    first = FIRST["verified_masks"]
    environment, outcomes, _ = played(sample, "verified_masks", *first, TURN.format(tag="answer", k=8))
    episode = environment.episode(StopReason.ANSWERED)
    assert episode.verdict is Verdict.CORRECTED and outcomes[-1] is StopReason.ANSWERED
    assert episode.turns[-1].grounding is not None and episode.turns[-1].grounding.keyframe == 8
    assert episode.turns[-1].keyframe == 5, "a [SEG] is decoded on the keyframe that its turn was shown"
    again, outcomes, _ = played(sample, "verified_masks", *first, TURN.format(tag="select", k=8))
    assert outcomes[-1] is StopReason.BAD_ACTION and again.episode(outcomes[-1]).verdict is Verdict.UNREAD


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_answer_is_verified(sample: Sample, kind: str) -> None:
    environment, outcomes, wanted = played(sample, kind, "no tags")
    assert outcomes[-1] is StopReason.BAD_ACTION and wanted is None
    assert environment.episode(StopReason.BAD_ACTION).verdict is None


def test_frames_without_a_mask_are_shown_as_they_are_and_said_to_be(sample: Sample) -> None:
    _, outcomes, _ = played(sample, "verified_boxes", boxed(), masks=lambda: NOTHING)
    (message,) = outcomes[-1]
    frames = [p for p in message.parts if isinstance(p, FramePart)]
    assert [p.drawn for p in frames] == [None] * 3
    assert "No mask is drawn in 0, 5, 11." in "".join(p.text for p in message.parts if isinstance(p, TextPart))


def test_a_clip_of_one_frame_and_a_bad_setting(sample: Sample) -> None:
    still = replace(sample, clip=replace(sample.clip, frames=sample.clip.frames[:1]))
    _, outcomes, wanted = played(still, "verified_boxes", boxed(0))
    assert wanted.frames == (0,) and isinstance(outcomes[-1], list)
    assert (
        list(others(1, 5, 0)) == [0] and list(others(2000, 3, 7)) == [0, 7, 999, 1999] and list(others(9, 0, 4)) == [4]
    )
    with pytest.raises(RecipeError, match="verify_frames = -1: must not be negative"):
        make_environment("verified_boxes", sample, {**BOXES, FRAMES: -1}, 32)


@pytest.mark.parametrize(
    ("verdict", "said", "expected"),
    [
        (None, (), [0, None, 2]),
        (Verdict.CONFIRMED, (), [0, None, 2, None]),
        (Verdict.CONFIRMED, (30,), [0, None, 2, 0]),
        (Verdict.CORRECTED, (30, 40), [0, None, 2, 1]),
        (Verdict.UNREAD, (30, 40), [0, None, 2, 1]),
    ],
)
def test_the_first_answers_masks_stay_those_that_were_shown(verdict: Any, said: Any, expected: list[Any]) -> None:
    """Whatever is written after it: the newest ``[SEG]`` of the answer was drawn, not its turn's first."""
    written = [(3, 5), (), (9, 11, 12), *([] if verdict is None else [said])]
    turns = [Turn("", None, None, keyframe=1, seg_positions=list(positions)) for positions in written]
    episode = Episode(turns, StopReason.ANSWERED, (), TOTAL, verdict)
    assert seg_of_turns(episode) == expected
    shown = Episode(turns[:3], StopReason.ANSWERED, (), TOTAL)
    assert seg_of_turns(shown) == expected[:3]


# ---- in a dialogue ----------------------------------------------------------------------------------------------


def talk(
    sample: Sample, replies: Sequence[str], draw: Any = None, room: int = 4096, kind: str = "verified_boxes"
) -> tuple[Episode, Conversation]:
    chat = ChatFormat.from_tokenizer(build_tokenizer(), patch=16)
    environment = make_environment(kind, sample, {**KINDS[kind], FRAMES: 2}, chat.factor)
    conversation = Conversation(build_tokenizer(), chat, sample.clip, 8192, max_response_tokens=room)
    episode = asyncio.run(roll_out(environment, conversation, scripted(conversation, replies), {}, 400, draw))
    return episode, conversation


CONFIRM = "<think>good</think><answer>confirm</answer>"


class Pool:
    """Stands for the segmenter: remembers what it saw."""

    def __init__(self, rle: RLE) -> None:
        self.rle = rle
        self.asked: list[tuple[Episode, tuple[int, ...]]] = []

    async def __call__(self, answer: Episode, conversation: Conversation, frames: Sequence[int]) -> Mapping[int, RLE]:
        self.asked.append((answer, tuple(frames)))
        return dict.fromkeys(frames, self.rle)


def test_a_dialogue_waits_for_its_masks_and_shows_them(sample: Sample) -> None:
    pool = Pool(square())
    episode, conversation = talk(sample, [boxed(), CONFIRM], pool)
    assert episode.verdict is Verdict.CONFIRMED and episode.stop is StopReason.ANSWERED and len(episode.turns) == 2
    ((answer, frames),) = pool.asked
    assert answer.texts == [boxed()] and frames == (0, 5, 11)
    shown = conversation.images()[-3:]
    plain = conversation.images()[:3]
    assert [p.drawn is not None for p in conversation.frames] == [False] * 3 + [True] * 3
    for before, after in zip(plain, shown, strict=True):  # frames 0, 5 and 11 are also what the dialogue began with
        assert not np.array_equal(np.array(before), np.array(after)) and before.size == after.size
    assert (np.array(shown[0]) == COLOUR).all(axis=-1).any()


def test_without_anyone_to_draw_or_room_to_show_the_first_answer_stands(sample: Sample) -> None:
    episode, _ = talk(sample, [boxed()])
    assert (episode.stop, episode.verdict, len(episode.turns)) == (StopReason.ANSWERED, None, 1)
    episode, _ = talk(sample, [boxed()], Pool(square()), room=410)
    assert (episode.stop, episode.verdict, len(episode.turns)) == (StopReason.CONTEXT_FULL, None, 1)
    assert last_answer(episode).texts == [boxed()]


def test_a_replayed_trace_has_nobody_to_draw(sample: Sample) -> None:
    chat = ChatFormat.from_tokenizer(build_tokenizer(), patch=16)
    environment = make_environment("verified_boxes", sample, BOXES, chat.factor)
    conversation = Conversation(build_tokenizer(), chat, sample.clip, 8192)
    episode = replay(environment, conversation, [boxed(), CONFIRM])
    assert episode.stop is StopReason.ANSWERED and len(episode.turns) == 1


# ---- what is in the pictures ------------------------------------------------------------------------------------


def truth_of(x: int) -> Masklets:
    return Masklets(HEIGHT, WIDTH, ((square(x),) * TOTAL,), TOTAL)


@pytest.mark.parametrize("kind", KINDS)
def test_ground_truth_has_no_way_into_the_overlay(sample: Sample, kind: str) -> None:
    """Dialogues that differ in their ground truth alone, or have none, show the same messages and the same pixels."""
    shown, pixels = [], []
    for masklets in (None, truth_of(0), truth_of(60)):
        pool = Pool(square(25))
        asked = replace(sample, masklets=masklets)
        episode, conversation = talk(asked, [*FIRST[kind], CONFIRM], pool, kind=kind)
        assert episode.verdict is Verdict.CONFIRMED and len(pool.asked) == 1
        shown.append((conversation.messages, conversation.frames, conversation.token_ids))
        pixels.append([np.array(image).tobytes() for image in conversation.images()])
        assert all(part.drawn in (None, square(25)["counts"]) for part in conversation.frames)
    assert shown[0] == shown[1] == shown[2] and pixels[0] == pixels[1] == pixels[2]


def test_an_overlay_is_the_frame_and_the_mask_alone(sample: Sample) -> None:
    frame = Image.open(sample.clip.frames[0])
    found = np.array(draw_mask(frame, square()["counts"], (HEIGHT, WIDTH)))
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:40, 10:40] = True
    assert np.array_equal(found[~mask], np.array(frame)[~mask]), "outside the mask nothing changes"
    assert (found[10, 10:40] == COLOUR).all() and (found[10:40, 39] == COLOUR).all()
    assert (found[15:35, 15:35] != np.array(frame)[15:35, 15:35]).any(axis=-1).mean() > 0.99
    assert np.array_equal(np.array(draw_mask(frame, NOTHING["counts"], (HEIGHT, WIDTH))), np.array(frame))
    small = draw_mask(frame.resize((48, 32)), square()["counts"], (HEIGHT, WIDTH))
    assert small.size == (48, 32) and (np.array(small)[5, 5:20] == COLOUR).all()


def test_pictures_with_other_masks_are_others(sample: Sample) -> None:
    """Stores and engines tell pictures apart by their key, vLLM by a digest of the pixels."""
    store = PictureStore(1 << 20)
    parts = [FramePart(0, 32, 32), FramePart(0, 32, 32, square()["counts"]), FramePart(0, 32, 32, square(50)["counts"])]
    images = store.of_clip(sample.clip, parts)
    assert len({image.info["videoseg_digest"] for image in images}) == 3
    assert len({Picture(sample.clip, p.frame, p.height, p.width, p.drawn).key for p in parts}) == 3
    assert np.array_equal(np.array(store.of_clip(sample.clip, parts)[2]), np.array(images[2]))


@pytest.mark.parametrize(
    "text", ["<answer>" * 500, "<think>" + "\ud800" * 9, "<answer>confirm", "</answer>confirm<answer>"]
)
def test_hostile_verdicts_are_none(text: str) -> None:
    assert read_verdict(text) is None
