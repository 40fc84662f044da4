"""Veason-R1's single turn (SPEC 3): timestamped square frames, one answer with a keyframe and boxes.

The method sees a clip at one frame a second: of a clip known to have more, the first frame of every second is a
candidate. A frame's second is that of its time stamp (of its index, where the clip has one rate), cut to a whole
number; a clip of unknown rate counts as one of 1 fps.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from rollout.box_protocol import BoxAnswer, parse_box_turn
from rollout.control_text import query_of
from rollout.environment import register_environment
from rollout.errors import RecipeError
from rollout.frames import evenly_spaced, frame_times, keyframe_congruent, one_a_second, whole_seconds
from rollout.messages import FramePart, Message
from rollout.prompts import BoxPromptSet, get_prompts
from rollout.settings import settings_from_dict
from rollout.types import Action, Clip, Episode, Sample, StopReason, Turn

THOUSAND = 1000
"""Qwen3-VL's boxes count thousandths of the frame's width and height, whatever its size."""
COORDINATES = {"pixels": "in pixels", "thousandths": "in thousandths of the frame's width and height (0 to 1000)"}
"""What boxes are in, as a prompt says it."""


@dataclass(frozen=True)
class BoxSettings:
    """``frames`` is n of SPEC 3 (6 in RL, 8 for CoT); ``side`` the square frame in pixels.

    ``sampling``: ``keyframe_congruent`` needs ground truth (training), ``evenly_spaced`` does not (evaluation).
    ``fps``: frames a second of the clips on disk; 0 takes each clip's own times, or 1 where they are not known.
    ``unseen_seconds``: an answer may name any second of the clip, as the released evaluator has it; else only one that
    was shown. ``units``: of boxes, ``pixels`` of the square or ``thousandths`` of its sides; ground truth for the
    rewards is in the same.
    """

    asked: ClassVar[type[BoxPromptSet]] = BoxPromptSet
    """The kind of prompt sets."""
    frames: int = 6
    side: int = 560
    sampling: str = "keyframe_congruent"
    fps: float = 0.0
    seed: int = 0
    prompts: str = "full"
    """A set's name, or a YAML file (`rollout.prompts`)."""
    unseen_seconds: bool = True
    units: str = "pixels"

    def __post_init__(self) -> None:
        if self.sampling not in ("keyframe_congruent", "evenly_spaced"):
            raise RecipeError(f"sampling = {self.sampling!r}: expected keyframe_congruent or evenly_spaced")
        if self.units not in COORDINATES:
            raise RecipeError(f"units = {self.units!r}: expected {' or '.join(COORDINATES)}")
        get_prompts(self.prompts, self.asked)
        if self.frames < 2 or self.fps < 0:
            raise RecipeError(f"frames = {self.frames}, fps = {self.fps}: at least 2 frames, and no negative rate")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a recipe; see `settings_from_dict`."""
        return settings_from_dict(cls, values)

    def timestamps(self, clip: Clip, frames: Sequence[int]) -> tuple[int, ...]:
        """Whole seconds of frames, as the prompt writes them."""
        return whole_seconds(frame_times(clip, self.fps)[list(frames)])

    def candidates(self, clip: Clip) -> list[int]:
        """The frames of the clip at one a second."""
        return one_a_second(frame_times(clip, self.fps))

    def frame_at(self, clip: Clip, shown: Sequence[int], second: int) -> int | None:
        """The frame that an answer names by ``second``: one of those shown, else (``unseen_seconds``) the first of the
        clip's in that second, or the last before it. None for a second that the clip does not have."""
        times = self.timestamps(clip, shown)
        if second in times:
            return shown[times.index(second)]
        times = self.timestamps(clip, range(clip.num_frames)) if self.unseen_seconds else ()
        if not times or not 0 <= second <= times[-1]:
            return None
        return bisect_left(times, times[bisect_right(times, second) - 1])

    @property
    def span(self) -> int:
        """What the right and lower edge of a frame are in ``units``."""
        return self.side if self.units == "pixels" else THOUSAND


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
        self._factor = factor
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
        s, clip = self.settings, self.sample.clip
        parts = self.look_at(self.frames, self.frames[0])
        length = s.timestamps(clip, [clip.num_frames - 1])[0] + 1
        prompts = get_prompts(s.prompts, s.asked)
        return prompts.messages(parts, self.timestamps, self.query, length, COORDINATES[s.units])

    def step(self, reply: str) -> list[Message] | StopReason:
        """Ends the episode: ``answered``, or ``bad_action`` for a reply in which no second that can be looked at and
        no list of boxes can be read."""
        clip, found = self.sample.clip, None
        self.answer = parse_box_turn(reply).answer
        if self.answer is not None:
            found = self.settings.frame_at(clip, self.frames, self.answer.keyframe_timestamp)
        if found is None:
            self.answer = None
        action = None if found is None else Action.ANSWER
        keyframe = clip.num_frames // 2 if found is None else found
        self._turns.append(Turn(reply, action, None, keyframe, shown=self.frames))
        return StopReason.BAD_ACTION if found is None else StopReason.ANSWERED

    def look_at(self, frames: Sequence[int], keyframe: int) -> list[FramePart]:
        """Frames as the policy sees them."""
        return [FramePart(frame, self.settings.side, self.settings.side) for frame in frames]

    def answered_at(self) -> int:
        """The frame that the answer named."""
        return self._turns[-1].keyframe

    def again(self) -> Self:
        """A new dialogue on the same frames."""
        return type(self)(self.sample, self.settings, self._factor, frames=self.frames)

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
