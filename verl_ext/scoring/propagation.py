"""Propagation for rewards: what evaluation would ask the segmenter for, over all frames or some, judged by J and F."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from rewards.registry import propagation_reward_names
from rewards.segmenter.types import BoxRequest, BoxScores, PropagatedMasks, PropagateRequest, State
from rewards.truth import truth
from rewards.types import PropagatedScores
from rollout.frames import evenly_spaced
from rollout.types import Action, Episode, Sample
from verl_ext.recipe.objective import PropagationRecipe

R = TypeVar("R", PropagateRequest, BoxRequest)


class OneAnswer:
    """A scoring of dialogues whose policy does not see its own masks."""

    verifies: bool = False

    def first_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> None:
        """There is no answer before another one."""


def wants_propagation(weights: Mapping[str, float]) -> bool:
    """Whether a reward judges masks after propagation."""
    return any(name in weights for name in propagation_reward_names())


def answered(episode: Episode) -> bool:
    """Whether the dialogue closed with an answer that can be read."""
    return bool(episode.turns) and episode.turns[-1].action is Action.ANSWER


def judged_request(whole: R, sample: Sample, propagation: PropagationRecipe) -> R:
    """``whole``, evaluation's own request, as a reward asks it.

    ``exact``: SAM 2 sees every frame. ``bounded``: it sees the judged frames and the keyframe alone. Every rollout of a
    prompt is judged in the same frames, whatever keyframe it chose.

    Raises:
        DataError: the split has no masks to score against.
    """
    total = sample.clip.num_frames
    places: list[int] = evenly_spaced(0, total - 1, min(propagation.frames or total, total))
    seen: Sequence[int] = range(total) if propagation.form == "exact" else sorted({*places, whole.keyframe})
    return replace(whole, frames=seen, judged=tuple(places), masklets=truth(sample), with_masks=False)


def judged_state(whole: R, sample: Sample, episode: Episode, propagation: PropagationRecipe) -> R | None:
    """As :func:`judged_request`; None where there is neither a ``[SEG]`` nor an answer that can be read."""
    if whole.state is None and not answered(episode):
        return None
    return judged_request(whole, sample, propagation)


def propagated_scores(sample: Sample, answer: PropagatedMasks | BoxScores | None) -> PropagatedScores:
    """What the rewards see; without an answer no frame is judged."""
    found = PropagatedScores() if answer is None or answer.judged is None else answer.judged
    return replace(found, has_target=bool(sample.expression.anno_ids))
