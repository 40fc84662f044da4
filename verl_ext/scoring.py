"""From finished rollouts and their ``[SEG]`` states to rewards, through the segmenter pool.

Pure bookkeeping around ``rewards``: what Ray and TransferQueue carry is turned into requests, and scores into numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.compose import compute_rewards
from rewards.segmenter.types import MaskScores, PropagateRequest, SegRequest, State
from rewards.types import RewardInput
from rollout.episode import final_keyframe
from rollout.types import Action, Episode, Grounding, Masklets, Sample, StopReason, Turn

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe


@dataclass
class Rollout:
    """One scored episode."""

    sample: Sample
    episode: Episode
    states: list[State | None]
    """Per turn: the state of its first ``[SEG]``."""
    rewards: dict[str, float]
    scores: MaskScores | None = None


def episode_from_dict(d: dict[str, Any]) -> Episode:
    """Inverse of ``dataclasses.asdict`` as it arrives from another process."""
    turns = []
    for t in d["turns"]:
        grounding = Grounding(**t["grounding"]) if t["grounding"] else None
        action = Action(t["action"]) if t["action"] else None
        turns.append(Turn(**{**t, "grounding": grounding, "action": action, "shown": tuple(t["shown"])}))
    return Episode(turns, StopReason(d["stop"]), tuple(d["spatial_frames"]), d["num_frames"])


def states_by_turn(episode: Episode, states: np.ndarray[Any, Any]) -> list[State | None]:
    """(N, C) states of all ``[SEG]`` tokens -> per turn, that of its first one.

    Raises:
        ValueError: as many states as ``[SEG]`` tokens are needed, or a mask would be scored for the wrong turn.
    """
    expected = sum(len(t.seg_positions) for t in episode.turns)
    if len(states) != expected:
        raise ValueError(f"{len(states)} [SEG] states for {expected} [SEG] tokens in the response")
    out: list[State | None] = []
    start = 0
    for turn in episode.turns:
        out.append(np.asarray(states[start], dtype=np.float32) if turn.seg_positions else None)
        start += len(turn.seg_positions)
    return out


def truth(sample: Sample) -> Masklets:
    """The sample's masklets; an expression without a target has empty ones."""
    if sample.masklets is not None:
        return sample.masklets
    clip = sample.clip
    return Masklets(clip.height, clip.width, (), clip.num_frames)


def seg_request(sample: Sample, episode: Episode, states: Sequence[State | None]) -> SegRequest:
    return SegRequest(
        sample.clip, truth(sample), list(episode.spatial_frames), list(states), [t.keyframe for t in episode.turns]
    )


def propagate_request(sample: Sample, episode: Episode, states: Sequence[State | None]) -> PropagateRequest:
    """The last turn's ``[SEG]`` at the final keyframe (SPEC 2.2, evaluation)."""
    state = states[-1] if states else None
    return PropagateRequest(sample.clip, final_keyframe(episode), state)


def reward_of(recipe: Recipe, sample: Sample, episode: Episode, scores: MaskScores | None) -> dict[str, float]:
    """Every reward of the recipe by name, and their weighted ``total``.

    A dialogue that never began (its clip was refused) is scored like an empty reply.
    """
    turns = episode.texts or [""]
    spatial = list(episode.spatial_frames) or [sample.clip.num_frames // 2]
    if scores is None or not scores.keyframe_ious:
        video, key = [[0.0] * len(spatial) for _ in turns], [0.0] * len(turns)
    else:
        video, key = [list(v) for v in scores.video_ious], list(scores.keyframe_ious)
    x = RewardInput(turns, truth(sample).existence(), video, key, stop=episode.stop, spatial_frames=spatial)
    return compute_rewards(x, recipe.rewards.weights, recipe.rewards.variant)


def metrics_of(rollouts: Sequence[Rollout], prefix: str = "") -> dict[str, float]:
    """Means for the log: every reward, every stop reason as a share, turns, mean IoUs."""
    n = max(1, len(rollouts))
    out: dict[str, float] = {}
    for name in rollouts[0].rewards if rollouts else ():
        values = np.array([r.rewards[name] for r in rollouts])
        key = "mean" if name == "total" else name
        out[f"{prefix}reward/{key}"] = float(values.mean())
        if name == "total":
            out[f"{prefix}reward/std_error"] = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    stops = Counter(r.episode.stop for r in rollouts)
    for reason in StopReason:
        out[f"{prefix}stop/{reason.value}"] = stops[reason] / n
    out[f"{prefix}turns/mean"] = float(np.mean([len(r.episode.turns) for r in rollouts])) if rollouts else 0.0
    scored = [r.scores for r in rollouts if r.scores is not None and r.scores.keyframe_ious]
    if scored:
        out[f"{prefix}iou/keyframe"] = float(np.mean([s.keyframe_ious[-1] for s in scored]))
        out[f"{prefix}iou/video"] = float(np.mean([np.mean(s.video_ious[-1]) for s in scored]))
    return out
