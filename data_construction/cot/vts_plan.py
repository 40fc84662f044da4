"""The plan of a multi-turn trace: decisions from ground truth, and what the real environment shows before each turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from data_construction.cot.build import trace_sample
from data_construction.cot.pictures import image_tokens
from data_construction.cot.plan import DIM_SHARE, TraceSettings
from data_construction.cot.seed import flat_text
from data_construction.cot.tracks import SceneObject
from data_construction.cot.vts_request import TurnPlan
from data_construction.readers.records import VTSCoTRecord
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.errors import DataError
from rollout.messages import FramePart, Message
from rollout.protocol import parse_turn
from rollout.types import Sample, StopReason

TEXT_TOKENS = 700
"""Of the instructions and the dialogue's own text, roughly."""
NEXT_ATTEMPT = 1_000_003
"""Added to the seed: far from any that a user would take beside his own."""


@dataclass(frozen=True)
class VTSSettings:
    """``exploration`` is the environment that will train on the traces."""

    exploration: ExplorationSettings = field(default_factory=lambda: ExplorationSettings.preset("cold_start"))
    turns: tuple[float, ...] = (0.2, 0.5, 0.3)
    """Weights of one, two, three turns; those beyond ``max_turns`` do not count."""
    recover: float = 0.1
    """Share of the longer traces that choose badly first and then recover."""
    marks: bool = True
    """Red rectangles around the target on what the writing model is shown."""
    seed: int = 0
    max_chars: int = 600
    """Of each step."""
    factor: int = 32
    """Patch times merge of the policy: frame sizes are multiples of it."""

    def traces(self) -> TraceSettings:
        e = self.exploration
        return TraceSettings(
            temporal_frames=e.temporal_frames,
            spatial_frames=e.spatial_frames,
            frames_per_turn=e.frames_per_turn,
            turns=self.turns[: e.max_turns],
            recover=self.recover,
            prompts=e.prompts,
        )


@dataclass(frozen=True)
class VTSPlan:
    """A trace whose reasoning is still to be written, and what the environment shows before each turn."""

    sample: Sample
    record: VTSCoTRecord
    turns: list[TurnPlan]
    existence: NDArray[np.bool_]
    """(T,) whether any target is visible."""

    def prompt_tokens(self) -> list[int]:
        """Of each turn's request, roughly."""
        parts = [[p for p in turn.message.parts if isinstance(p, FramePart)] for turn in self.turns]
        each = [sum(image_tokens(p.height, p.width) for p in some) for some in parts]
        return [TEXT_TOKENS + sum(each[: n + 1]) for n in range(len(each))]


def plan_trace(
    sample: Sample, objects: list[SceneObject], areas: NDArray[np.int64], settings: VTSSettings, attempt: int
) -> VTSPlan:
    """``objects`` are the sample's targets, ``areas`` (T,) the pixels that they cover. A new attempt, a new plan."""
    e, factor = settings.exploration, settings.factor
    record = trace_sample(sample, objects, settings.traces(), settings.seed + NEXT_ATTEMPT * (attempt - 1))
    shown = replay_messages(sample, record, e, factor)
    record = replace(record, conversations=_conversations(shown, record.replies))
    # The writing model is told in full what the frames are, however few words the policy makes do with.
    clear = replay_messages(sample, record, replace(e, prompts="full"), factor)
    return VTSPlan(sample, record, _turns(record, clear, areas), areas > 0)


def replay_messages(
    sample: Sample, record: VTSCoTRecord, settings: ExplorationSettings, factor: int
) -> list[list[Message]]:
    """What the real environment says before each of the record's turns.

    Raises DataError if it would end the dialogue before the record does.
    """
    environment = KeyframeExploration(
        sample, settings, factor, spatial_frames=record.sample_frame_indice, trace=record.selections
    )
    out, said = [], environment.begin()
    for n, reply in enumerate(record.replies):
        if isinstance(said, StopReason):
            raise DataError(f"clip {sample.clip.name}, {sample.id}: the environment stops ({said}) before turn {n + 1}")
        out.append(said)
        said = environment.step(reply)
    return out


def _turns(record: VTSCoTRecord, shown: list[list[Message]], areas: NDArray[np.int64]) -> list[TurnPlan]:
    turns: list[TurnPlan] = []
    seen: set[int] = set()
    for n, (reply, messages) in enumerate(zip(record.replies, shown, strict=True)):
        parsed = parse_turn(reply)
        assert parsed.action is not None and parsed.grounding is not None and parsed.think is not None
        seen |= set(messages[-1].frames)
        poor = areas[parsed.grounding.keyframe] < DIM_SHARE * max(areas[t] for t in seen)
        turns.append(
            TurnPlan(
                n,
                messages[-1],
                parsed.action,
                parsed.grounding,
                facts=parsed.think.partition(" Step 3:")[0],
                tentative=bool(poor and n + 1 < len(shown)),
                corrects=turns[-1].grounding if turns and turns[-1].tentative else None,
                target=bool(record.anno_id),
                query=record.exp,
            )
        )
    return turns


def _conversations(shown: list[list[Message]], replies: list[str]) -> tuple[tuple[str, str], ...]:
    names = {"system": "system", "user": "human"}
    out: list[tuple[str, str]] = []
    for messages, reply in zip(shown, replies, strict=True):
        out += [*((names[m.role], flat_text(m)) for m in messages), ("gpt", reply)]
    return tuple(out)
