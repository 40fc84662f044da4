"""Spoilt pictures: what is shown changes as its way says, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout import ChatFormat, Conversation, Sample
from rollout.errors import DataError
from rollout.frames import load_frame_resized
from rollout.messages import FramePart, Message
from rollout.spoilt import GREY, WAYS, check_way, read_of, spoilt
from tests.rollout.helpers import write_clip

FRAMES = [0, 5, 11]


def shown(tokenizer: Any, chat: ChatFormat, sample: Sample) -> list[np.ndarray[Any, Any]]:
    conversation = Conversation(tokenizer, chat, sample.clip, max_tokens=8192, read=read_of(sample))
    assert conversation.append_user([Message("user", tuple(FramePart(f, 64, 96) for f in FRAMES))])
    return [np.asarray(image) for image in conversation.images()]


def true(sample: Sample, frame: int) -> np.ndarray[Any, Any]:
    return np.asarray(load_frame_resized(sample.clip, frame, 64, 96))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    clip = write_clip(tmp_path_factory.mktemp("more") / "geese")
    return Sample(clip, None)  # type: ignore[arg-type]


def test_blank_is_grey_and_frozen_the_first_frame(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    for image in shown(tokenizer, chat, spoilt(sample, "blank")):
        assert image.shape == (64, 96, 3) and (image == GREY).all()
    for image in shown(tokenizer, chat, spoilt(sample, "frozen")):
        assert np.array_equal(image, true(sample, 0))
    assert np.array_equal(shown(tokenizer, chat, sample)[1], true(sample, 5)), "unspoilt, it is the clip"


def test_shuffled_keeps_every_frame_and_no_place(tokenizer: Any, chat: ChatFormat, sample: Sample) -> None:
    changed = spoilt(sample, "shuffled")
    assert changed.stand_in is not None
    order = [t for t in changed.stand_in.frames if t is not None]
    assert sorted(order) == list(range(sample.clip.num_frames)) and all(t != s for t, s in enumerate(order))
    assert spoilt(sample, "shuffled") == changed, "the same clip is shuffled the same way"
    for frame, image in zip(FRAMES, shown(tokenizer, chat, changed), strict=True):
        assert np.array_equal(image, true(sample, order[frame]))


def test_another_clip_is_shown_from_end_to_end(
    tokenizer: Any, chat: ChatFormat, sample: Sample, other: Sample, tmp_path: Path
) -> None:
    from dataclasses import replace

    short = replace(other.clip, frames=other.clip.frames[:4])
    changed = spoilt(sample, "other-clip", short)
    assert changed.stand_in is not None and changed.clip == sample.clip
    assert changed.stand_in.frames[0] == 0 and changed.stand_in.frames[-1] == 3
    images = shown(tokenizer, chat, changed)
    assert np.array_equal(images[2], np.asarray(load_frame_resized(short, 3, 64, 96)))


@pytest.mark.parametrize("way", WAYS)
def test_spoilt_samples_travel_as_json(way: str, sample: Sample, other: Sample) -> None:
    changed = spoilt(sample, way, other.clip)
    assert Sample.from_dict(changed.to_dict()) == changed
    assert (changed.clip, changed.expression) == (sample.clip, sample.expression)


def test_ways_that_would_change_nothing_are_refused() -> None:
    with pytest.raises(DataError, match=r"other-clip: there is one clip only \(a\).*--images blank"):
        check_way("other-clip", {"a": 12})
    with pytest.raises(DataError, match="frozen: every clip has one frame"):
        check_way("frozen", {"a": 1, "b": 1})
    check_way("blank", {"a": 1})
    check_way("other-clip", {"a": 1, "b": 1})
