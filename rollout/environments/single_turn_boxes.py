"""Veason-R1's single turn (SPEC 3): timestamped square frames, one answer with a keyframe and boxes.

The method sees a clip at one frame a second: of a clip known to have more, the first frame of every second is a
candidate. A frame's second is that of its time stamp (of its index, where the clip has one rate), cut to a whole
number; a clip of unknown rate counts as one of 1 fps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rollout.box_protocol import BoxAnswer, parse_box_turn
from rollout.environment import register_environment
from rollout.errors import RecipeError
from rollout.frames import evenly_spaced, frame_times, keyframe_congruent, one_a_second, whole_seconds
from rollout.messages import FramePart, Message, Part, TextPart
from rollout.protocol import query_of
from rollout.settings import settings_from_dict
from rollout.types import Action, Clip, Episode, Sample, StopReason, Turn

PROMPTS = {
    "full": (
        "You locate the object or objects that a text query describes in a video. The frames come one by one, each "
        "after its time in seconds, all {side}x{side} pixels. Follow what happens over time, choose the one frame in "
        "which the target can be seen best, and box every target object in it.",
        "{time}s: ",
        "\nQuery: {query}\nReason about the video, the choice of the keyframe and the target between <think> and "
        "</think>. Then give the result as JSON between <answer> and </answer>, with the time of the frame you chose "
        "as an integer and one box in pixels per object:\n"
        '<think>…</think><answer>{{"keyframe_timestamp": seconds, "bbox_2d_list": [[x1, y1, x2, y2], …]}}</answer>',
    ),
    "brief": ("boxes", " {time} ", " find {query}"),
}
"""By name: system message, timestamp before a frame, question."""


@dataclass(frozen=True)
class BoxSettings:
    """``frames`` is n of SPEC 3 (6 in RL, 8 for CoT); ``side`` the square frame in pixels.

    ``sampling``: ``keyframe_congruent`` needs ground truth (training), ``evenly_spaced`` does not (evaluation).
    ``fps``: frames a second of the clips on disk; 0 takes each clip's own times, or 1 where they are not known.
    """

    frames: int = 6
    side: int = 560
    sampling: str = "keyframe_congruent"
    fps: float = 0.0
    seed: int = 0
    prompts: str = "full"

    def __post_init__(self) -> None:
        if self.sampling not in ("keyframe_congruent", "evenly_spaced"):
            raise RecipeError(f"sampling = {self.sampling!r}: expected keyframe_congruent or evenly_spaced")
        if self.prompts not in PROMPTS:
            raise RecipeError(f"no box prompts {self.prompts!r}; there are {', '.join(PROMPTS)}")
        if self.frames < 2 or self.fps < 0:
            raise RecipeError(f"frames = {self.frames}, fps = {self.fps}: at least 2 frames, and no negative rate")

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> BoxSettings:
        """From a recipe; see `settings_from_dict`."""
        return settings_from_dict(BoxSettings, values)

    def timestamps(self, clip: Clip, frames: Sequence[int]) -> tuple[int, ...]:
        """Whole seconds of frames, as the prompt writes them."""
        return whole_seconds(frame_times(clip, self.fps)[list(frames)])

    def candidates(self, clip: Clip) -> list[int]:
        """The frames of the clip at one a second."""
        return one_a_second(frame_times(clip, self.fps))


@register_environment("single_turn_boxes")
class SingleTurnBoxes:
    """One episode of one turn. ``frames`` fixes the shown frames (a recorded dialogue), else they are sampled.

    Raises `RecipeError` if ``side`` does not fit the vision grid, `DataError` if the query holds control tokens.
    """

    answers = "boxes"

    def __init__(
        self, sample: Sample, settings: BoxSettings, factor: int = 28, *, frames: Sequence[int] | None = None
    ) -> None:
        if settings.side % factor:
            raise RecipeError(f"side = {settings.side} is not a multiple of {factor} (patch * merge of the policy)")
        self.sample = sample
        self.settings = settings
        self.query = query_of(sample)
        self.frames = tuple(self._sample_frames() if frames is None else frames)
        self.answer: BoxAnswer | None = None
        """The last answer, None if it cannot be carried out."""
        self._turns: list[Turn] = []

    @classmethod
    def build(cls, sample: Sample, settings: Mapping[str, Any], factor: int) -> SingleTurnBoxes:
        return cls(sample, BoxSettings.from_dict(settings), factor)

    @property
    def timestamps(self) -> tuple[int, ...]:
        """Whole seconds of the shown frames."""
        return self.settings.timestamps(self.sample.clip, self.frames)

    def begin(self) -> list[Message] | StopReason:
        """The frames with their times and the question; ``refused_clip`` if there is nothing to show."""
        if not self.frames or not all(0 <= f < self.sample.clip.num_frames for f in self.frames):
            return StopReason.REFUSED_CLIP
        s = self.settings
        system, stamp, question = PROMPTS[s.prompts]
        parts: list[Part] = []
        for frame, time in zip(self.frames, self.timestamps, strict=True):
            parts += [TextPart(stamp.format(time=time)), FramePart(frame, s.side, s.side)]
        parts.append(TextPart(question.format(query=self.query)))
        return [Message.text("system", system.format(side=s.side)), Message("user", tuple(parts))]

    def step(self, reply: str) -> list[Message] | StopReason:
        """Ends the episode: ``answered``, or ``bad_action`` for a reply without a second and a list of boxes."""
        self.answer = parse_box_turn(reply).answer
        keyframe = self.sample.clip.num_frames // 2
        if self.answer is not None and self.answer.keyframe_timestamp in self.timestamps:
            keyframe = self.frames[self.timestamps.index(self.answer.keyframe_timestamp)]
        action = None if self.answer is None else Action.ANSWER
        self._turns.append(Turn(reply, action, None, keyframe, shown=self.frames))
        return StopReason.BAD_ACTION if self.answer is None else StopReason.ANSWERED

    def episode(self, stop: StopReason) -> Episode:
        return Episode(self._turns, stop, self.frames, self.sample.clip.num_frames)

    def _sample_frames(self) -> list[int]:
        clip, s = self.sample.clip, self.settings
        if clip.num_frames == 0:
            return []
        candidates = s.candidates(clip)
        if s.sampling == "evenly_spaced":
            return [candidates[i] for i in evenly_spaced(0, len(candidates) - 1, s.frames)]
        if self.sample.masklets is None:
            raise RecipeError(
                f"{self.sample.id} has no masks; use sampling = evenly_spaced where there is no ground truth"
            )
        # one stream per sample: the n rollouts of a group must see the same frames
        rng = np.random.default_rng([s.seed, *self.sample.id.encode()])
        areas = self.sample.masklets.areas()[candidates]
        return [candidates[i] for i in keyframe_congruent(areas, s.frames, rng)[0]]
