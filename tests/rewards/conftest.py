"""Builders for reward inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rewards import BoxRewardInput, RewardInput

THINK = "<think>Step 1: it moves. Step 2: red. Step 3: the left one. Action: look again.</think>"


def turn_text(start: Any = 0, end: Any = 4, keyframe: Any = 1, tag: str = "answer", think: str = THINK) -> str:
    """A well-formed assistant turn."""
    vtg = f'{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}'
    return f"{think}<{tag}><VTG>{vtg}</VTG> <RefSeg> [SEG] </RefSeg></{tag}>"


@pytest.fixture
def turn() -> Callable[..., str]:
    return turn_text


@pytest.fixture
def rollout() -> Callable[..., RewardInput]:
    """RewardInput of ``turns`` with one spatial frame and perfect IoUs unless given."""

    def build(
        *turns: str,
        existence: Sequence[int] = (1, 1, 1, 1),
        video: Sequence[Sequence[float]] | None = None,
        keyframe: Sequence[float] | None = None,
        spatial: Sequence[int] | None = None,
    ) -> RewardInput:
        return RewardInput(
            turns=list(turns),
            existence=existence,
            video_ious=video if video is not None else [[1.0]] * len(turns),
            keyframe_ious=keyframe if keyframe is not None else [1.0] * len(turns),
            spatial_frames=spatial,
        )

    return build


@pytest.fixture
def box_reply() -> Callable[..., BoxRewardInput]:
    """BoxRewardInput on two sampled frames (seconds 3 and 8) with one object, absent from the second."""

    def build(text: str, **changes: Any) -> BoxRewardInput:
        given: dict[str, Any] = {
            "timestamps": [3, 8],
            "gt_boxes": [[[10, 10, 19, 19]], [[0, 0, 0, 0]]],
            "areas": [50, 0],
            "frame_ious": [0.5, 1.0],
        }
        return BoxRewardInput(text, **{**given, **changes})

    return build
