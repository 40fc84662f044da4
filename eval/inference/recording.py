"""From a finished dialogue and its masks to the record that is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.inference.dialogue import Dialogue
from eval.results.record import ResultRecord, TurnRecord
from rollout.types import Sample


def record_of(
    sample: Sample,
    dialogue: Dialogue,
    masks: Sequence[Any],
    rewards: dict[str, float] | None,
    objects: Sequence[Sequence[Any]] | None = None,
    drawn_by: str | None = None,
) -> ResultRecord:
    """What is written for one expression: ``masks`` of all objects, and ``objects`` one by one unless it is one;
    ``drawn_by`` says which prompt drew them, where there could be two."""
    episode = dialogue.episode
    turns = tuple(
        TurnRecord(t.text, t.action, t.grounding, t.keyframe, tuple(t.shown), len(t.shown)) for t in episode.turns
    )
    return ResultRecord(
        clip=sample.clip.name,
        expression_id=sample.expression.id,
        text=sample.expression.text,
        type_id=sample.expression.type_id,
        kind=sample.expression.kind,
        num_frames=sample.clip.num_frames,
        height=sample.clip.height,
        width=sample.clip.width,
        spatial_frames=tuple(episode.spatial_frames),
        stop=episode.stop,
        turns=turns,
        prediction=tuple(masks),
        objects=None if objects is None else tuple(tuple(track) for track in objects),
        rewards=rewards,
        tokens=dialogue.tokens,
        drawn_by=drawn_by,
        verdict=None if episode.verdict is None else episode.verdict.value,
    )
