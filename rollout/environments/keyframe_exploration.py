"""VideoSEG-O3's multi-turn keyframe exploration (SPEC 2.1).

The policy first sees the whole clip coarsely and a few frames better. While it selects, it is shown frames of
the interval it named and the keyframe at a higher resolution; when it answers, the episode ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rollout.control_text import query_of
from rollout.environment import register_environment
from rollout.episode import final_keyframe
from rollout.errors import RecipeError
from rollout.frames import MIN_UNITS, PixelBudget, evenly_spaced
from rollout.messages import FramePart, Message
from rollout.prompts import PromptSet, get_prompts
from rollout.protocol import clamp, parse_turn
from rollout.settings import settings_from_dict
from rollout.types import Action, Episode, Grounding, Sample, StopReason, Turn


@dataclass(frozen=True)
class ExplorationSettings:
    """Frame counts and pixel budgets (units of 28 x 28). The defaults are RL training's."""

    temporal_frames: int = 10
    spatial_frames: int = 5
    frames_per_turn: int = 5
    max_turns: int = 3
    temporal_budget: int = 32
    spatial_budget: int = 128
    keyframe_budget: int = 256
    spare_frames: int = 1
    """The first message shows all of a clip that has so many frames more than it would take (SPEC 2.1)."""
    prompts: str = "full"

    def __post_init__(self) -> None:
        for name in ("temporal_frames", "spatial_frames", "spare_frames"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} = {getattr(self, name)}: must not be negative")
        for name in ("frames_per_turn", "max_turns"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("temporal_budget", "spatial_budget", "keyframe_budget"):
            if getattr(self, name) < MIN_UNITS:
                raise RecipeError(f"{name} = {getattr(self, name)}: the least is {MIN_UNITS} units of 28 x 28 pixels")
        get_prompts(self.prompts)

    @staticmethod
    def preset(name: str) -> ExplorationSettings:
        """``train`` (RL), ``cold_start`` or ``evaluation``: the numbers of SPEC 2.1."""
        if name not in PRESETS:
            raise RecipeError(f"no exploration preset {name!r}; there are {', '.join(PRESETS)}")
        return PRESETS[name]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ExplorationSettings:
        """From a recipe: ``preset`` (default ``train``) and any settings that differ from it."""
        rest = dict(values)
        base = ExplorationSettings.preset(rest.pop("preset", "train"))
        return settings_from_dict(ExplorationSettings, rest, base)


PRESETS = {
    "train": ExplorationSettings(),
    "cold_start": ExplorationSettings(temporal_frames=20),
    "evaluation": ExplorationSettings(
        temporal_frames=20, spatial_frames=8, spatial_budget=256, keyframe_budget=512, spare_frames=0
    ),
}


@register_environment("keyframe_exploration")
class KeyframeExploration:
    """One episode. ``spatial_frames`` and ``trace`` come from a recorded dialogue (VTS-CoT) that is re-created:
    the first replaces the evenly spaced choice, the second what each ``<select>`` asks for.

    Raises `DataError` if the expression holds control tokens.
    """

    answers = "masks"

    def __init__(
        self,
        sample: Sample,
        settings: ExplorationSettings,
        factor: int = 32,
        *,
        spatial_frames: Sequence[int] | None = None,
        trace: Sequence[Grounding] = (),
    ) -> None:
        self.sample = sample
        self.settings = settings
        self.factor = factor
        self.query = query_of(sample)
        self._prompts = get_prompts(settings.prompts, PromptSet)
        self._trace = tuple(trace)
        even = self._over_the_clip(settings.spatial_frames)
        self.spatial_frames = tuple(even if spatial_frames is None else spatial_frames)
        self._turns: list[Turn] = []
        self._keyframe = max(sample.clip.num_frames // 2, 0)
        self._shown: tuple[int, ...] = ()

    @classmethod
    def build(cls, sample: Sample, settings: Mapping[str, Any], factor: int) -> KeyframeExploration:
        return cls(sample, ExplorationSettings.from_dict(settings), factor)

    def begin(self) -> list[Message] | StopReason:
        """System message and the first look at the clip; ``refused_clip`` for a clip without frames."""
        clip, s = self.sample.clip, self.settings
        if clip.num_frames == 0 or not all(0 <= f < clip.num_frames for f in self.spatial_frames):
            return StopReason.REFUSED_CLIP
        temporal = self._parts(self._over_the_clip(s.temporal_frames), s.temporal_budget)
        spatial = self._parts(self.spatial_frames, s.spatial_budget)
        parts = self._prompts.first_user_parts(temporal, spatial, self.query, clip.num_frames)
        return [self._prompts.system_message(), self._show(parts)]

    def step(self, reply: str) -> list[Message] | StopReason:
        """See `Environment.step`: clamp, then stop or show the interval and the keyframe."""
        parsed = parse_turn(reply)
        self._turns.append(Turn(reply, parsed.action, parsed.grounding, self._keyframe, shown=self._shown))
        if parsed.action is None or parsed.grounding is None:
            return StopReason.BAD_ACTION
        if parsed.action is Action.ANSWER:
            return StopReason.ANSWERED
        clip, s, turn = self.sample.clip, self.settings, len(self._turns) - 1
        asked = self._trace[turn] if turn < len(self._trace) else parsed.grounding
        asked = clamp(asked, clip.num_frames)
        if asked.end < asked.start:
            return StopReason.BAD_INTERVAL
        if len(self._turns) >= s.max_turns:
            return StopReason.TURN_LIMIT
        self._keyframe = asked.keyframe
        interval = self._parts(evenly_spaced(asked.start, asked.end, s.frames_per_turn), s.temporal_budget)
        (keyframe,) = self._parts([asked.keyframe], s.keyframe_budget)
        return [self._show(self._prompts.follow_up_parts(interval, keyframe, self.query, clip.num_frames))]

    def look_at(self, frames: Sequence[int], keyframe: int) -> list[FramePart]:
        """Frames as the policy sees keyframes, and others as it sees spatial ones."""
        s = self.settings
        return [self._parts([t], s.keyframe_budget if t == keyframe else s.spatial_budget)[0] for t in frames]

    def answered_at(self) -> int:
        """The frame from which the last ``[SEG]`` is propagated."""
        return final_keyframe(self.episode(StopReason.ANSWERED))

    def again(self) -> Self:
        """A new dialogue on the same frames."""
        return type(self)(self.sample, self.settings, self.factor, spatial_frames=self.spatial_frames)

    def episode(self, stop: StopReason) -> Episode:
        return Episode(self._turns, stop, self.spatial_frames, self.sample.clip.num_frames)

    def _over_the_clip(self, count: int) -> list[int]:
        last = self.sample.clip.num_frames - 1
        return [] if last < 0 else evenly_spaced(0, last, count, self.settings.spare_frames)

    def _parts(self, frames: Sequence[int], budget: int) -> list[FramePart]:
        clip = self.sample.clip
        height, width = PixelBudget(budget).size(clip.height, clip.width, self.factor)
        return [FramePart(f, height, width) for f in frames]

    def _show(self, parts: Sequence[Any]) -> Message:
        message = Message("user", tuple(parts))
        self._shown = message.frames
        return message
