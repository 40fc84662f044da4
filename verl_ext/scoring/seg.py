"""Scoring of ``[SEG]`` dialogues (VideoSEG-O3, SPEC 2.5): the pool decodes the states of the actor's log-prob pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.compose import compute_rewards
from rewards.segmenter.types import (
    BoxRequest,
    BoxScores,
    MaskScores,
    PropagatedMasks,
    PropagateRequest,
    SegRequest,
    State,
)
from rewards.truth import legible_frames, truth
from rewards.types import RewardInput, Variant
from rollout.episode import final_keyframe, seg_of_turns
from rollout.types import RLE, Episode, Sample
from rollout.verification import first_answer
from verl_ext.recipe.objective import PropagationRecipe
from verl_ext.scoring.propagation import OneAnswer, judged_state, propagated_scores, wants_propagation
from verl_ext.scoring.rollouts import Remembered
from verl_ext.seg.calibration import SegCountMismatchError


@dataclass
class SegScoring(OneAnswer):
    """See :class:`verl_ext.scoring.rollouts.Scoring`."""

    weights: Mapping[str, float]
    variant: Variant
    columns: tuple[str, ...] = ("seg_states", "mask_log_prob", "mask_target")
    # the reference pass writes the log-prob pass's names again
    kept_as: Mapping[str, str] = field(
        default_factory=lambda: {"mask_log_prob": "old_mask_log_prob", "mask_target": "old_mask_target"}
    )
    needs_pool: bool = True
    combines: bool = False
    existence: str = "visible"
    """``legible``: rewards of intervals and keyframes ask for frames in which the target can be told from others."""
    propagation: PropagationRecipe = field(default_factory=PropagationRecipe)
    _existence: Remembered[NDArray[np.uint8]] = field(default_factory=Remembered)

    def states(self, episodes: Sequence[Episode], columns: Mapping[str, Any]) -> list[list[State | None]]:
        rows = [row.reshape(-1) for row in columns["seg_states"].unbind()]  # each with one leading dummy state
        tokens = [sum(len(t.seg_positions) for t in e.turns) for e in episodes]
        width = sum(map(len, rows)) // sum(n + 1 for n in tokens)
        out = []
        for b, (episode, row, n) in enumerate(zip(episodes, rows, tokens, strict=True)):
            if len(row) != (n + 1) * width:
                raise SegCountMismatchError(f"sequence {b}, states", len(row) // width - 1, n)
            out.append(states_by_turn(episode, row.view(n + 1, width)[1:].float().numpy()))
        return out

    def reward_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None], with_masks: bool = False
    ) -> SegRequest | None:
        if not episode.turns:
            return None
        keyframes = [t.keyframe for t in episode.turns]
        return SegRequest(sample.clip, truth(sample), list(episode.spatial_frames), list(states), keyframes, with_masks)

    def propagation_request(
        self, sample: Sample, episode: Episode, states: Sequence[State | None]
    ) -> PropagateRequest | None:
        """What evaluation would propagate. An answer without ``[SEG]`` is one without masks, right without a target."""
        if not wants_propagation(self.weights):
            return None
        return judged_state(self.mask_request(sample, episode, states), sample, episode, self.propagation)

    def masks(self, episode: Episode, answer: MaskScores) -> list[dict[int, RLE]]:
        frames = [(*episode.spatial_frames, turn.keyframe) for turn in episode.turns]
        turns = zip(frames, answer.rles or (), strict=False)
        return [{} if rles is None else dict(zip(shown, rles, strict=True)) for shown, rles in turns]

    def rewards(
        self,
        sample: Sample,
        episode: Episode,
        answer: MaskScores | None,
        propagated: PropagatedMasks | None = None,
        first: None = None,
    ) -> dict[str, float]:
        """A dialogue without a turn (its first message did not fit) is scored like an empty reply."""
        return compute_rewards(self.reward_input(sample, episode, answer, propagated), self.weights, self.variant)

    def reward_input(
        self,
        sample: Sample,
        episode: Episode,
        answer: MaskScores | None,
        propagated: PropagatedMasks | BoxScores | None,
    ) -> RewardInput:
        """What rewards see of a dialogue."""
        turns = episode.texts or [""]
        spatial = list(episode.spatial_frames) or [sample.clip.num_frames // 2]
        if answer is None:
            video, key = [[0.0] * len(spatial) for _ in turns], [0.0] * len(turns)
        else:
            video, key = [list(v) for v in answer.video_ious], list(answer.keyframe_ious)
        existence = self._existence.get(sample, lambda: self._wanted_frames(sample))
        after = propagated_scores(sample, propagated)
        return RewardInput(turns, existence, video, key, stop=episode.stop, spatial_frames=spatial, propagated=after)

    def _wanted_frames(self, sample: Sample) -> NDArray[np.uint8]:
        """(T,) 0/1. Raises DataError where legible frames are asked for and the data set does not know them."""
        return legible_frames(sample) if self.existence == "legible" else truth(sample).existence()

    def ious(self, answer: MaskScores) -> dict[str, float]:
        """Of the last turn's masks."""
        return {"keyframe": answer.keyframe_ious[-1], "video": float(np.mean(answer.video_ious[-1]))}

    def mask_request(self, sample: Sample, episode: Episode, states: Sequence[State | None]) -> PropagateRequest:
        """The dialogue's newest ``[SEG]``, whichever turn wrote it, at the final keyframe (SPEC 2.2, evaluation)."""
        state = next((s for s in reversed(states) if s is not None), None)
        return PropagateRequest(sample.clip, final_keyframe(episode), state)


def states_by_turn(episode: Episode, states: NDArray[np.float32]) -> list[State | None]:
    """(N, C) states of all ``[SEG]`` tokens -> per turn, that of the one which draws, see `seg_of_turns`.

    Raises:
        SegCountMismatchError: as many states as ``[SEG]`` tokens are needed, or a mask would be scored for the wrong
            turn.
    """
    expected = sum(len(t.seg_positions) for t in episode.turns)
    if len(states) != expected:
        raise SegCountMismatchError(f"{len(episode.turns)} turns", len(states), expected)
    return [None if i is None else np.asarray(states[i], dtype=np.float32) for i in drawing_tokens(episode)]


def drawing_tokens(episode: Episode) -> list[int | None]:
    """Per turn, which of the dialogue's ``[SEG]`` tokens draws its masks, by place among all of them."""
    out: list[int | None] = []
    start = 0
    for turn, place in zip(episode.turns, seg_of_turns(episode), strict=True):
        out.append(None if place is None else start + place)
        start += len(turn.seg_positions)
    return out


@dataclass
class ScoredInPass:
    """In the pool's place: IoUs that the log-prob pass has found (the column ``seg_ious``)."""

    episodes: Sequence[Episode]
    ious: Sequence[NDArray[np.float32]]
    """Per dialogue, for each of its ``[SEG]`` tokens: the keyframe's, then those of the spatial frames."""
    pool: Any = None
    """Draws the masks that are asked for, which the pass does not hand over."""

    def score(self, requests: Sequence[Any]) -> list[Any]:
        """``requests``: those of :meth:`SegScoring.reward_request`, one for each dialogue that has a turn, and behind
        them any for propagation, which the pool answers.

        Raises:
            SegCountMismatchError: a dialogue has another number of IoUs than its tokens draw masks.
        """
        after = [request for request in requests if isinstance(request, PropagateRequest | BoxRequest)]
        requests = requests[: len(requests) - len(after)]
        begun = [i for i, episode in enumerate(self.episodes) if episode.turns]
        if len(requests) != len(begun):
            raise SegCountMismatchError("dialogues", len(begun), len(requests))
        answers = [self._scores(i) for i in begun]
        drawn = [n for n, request in enumerate(requests) if request.with_masks and self.pool is not None]
        masks = self.pool.score([requests[n] for n in drawn]) if drawn else []
        for n, answer in zip(drawn, masks, strict=True):
            answers[n] = replace(answers[n], rles=answer.rles)
        return [*answers, *(self.pool.score(after) if after else ())]

    def of(self, i: int) -> ScoredInPass:
        """The same for the requests of dialogue ``i`` alone."""
        return ScoredInPass([self.episodes[i]], [self.ious[i]], self.pool)

    def _scores(self, i: int) -> MaskScores:
        """Of the first answer's turns, as :meth:`SegScoring.reward_request` asks for them."""
        episode, frames = self.episodes[i], len(self.episodes[i].spatial_frames)
        tokens = sum(len(turn.seg_positions) for turn in episode.turns)
        if len(self.ious[i]) != tokens * (1 + frames):
            raise SegCountMismatchError(f"sequence {i}, IoUs", len(self.ious[i]), tokens * (1 + frames))
        rows = self.ious[i].reshape(-1, 1 + frames).tolist()
        video, key = [], []
        for place in drawing_tokens(episode)[: len(first_answer(episode).turns)]:
            found = [0.0] * (1 + frames) if place is None else rows[place]
            key.append(found[0])
            video.append(tuple(found[1:]))
        return MaskScores(tuple(video), tuple(key))


def build(settings: Mapping[str, Any], weights: Mapping[str, float], variant: Variant) -> SegScoring:
    return SegScoring(weights, variant)
