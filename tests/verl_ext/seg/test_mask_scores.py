"""Scored in the log-prob pass, a rollout gets what the pool gives it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from verl.utils import tensordict_utils as tu

from rollout.types import Sample, StopReason, Turn
from tests.verl_ext.dialogues import InProcessPool
from tests.verl_ext.two_processes import ROWS, rollouts
from verl_ext.recipe import Recipe
from verl_ext.scoring.rollouts import episode_from_dict, recipe_scoring
from verl_ext.scoring.seg import ScoredInPass
from verl_ext.seg.batch import rows_without_dummy
from verl_ext.seg.calibration import SegCountMismatchError
from verl_ext.seg.drawn_states import DRAW_STATES
from verl_ext.seg.episodes import micro_batch_episodes


@pytest.mark.parametrize("form", ["mask", "state"])
def test_the_pass_scores_what_the_pool_scores(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], pool: InProcessPool, form: str
) -> None:
    """Of drawn states too: what is scored is the draw, by whichever of the two."""
    recipe = tiny_recipe("sft", "trainer.micro_batch=2", f"objective.calibration.form={form}")
    worker = build_worker(recipe)
    worker.engine._recipe.pool.share_gpu = True  # no recipe asks for it on a CPU
    batch = rollouts(worker, range(len(ROWS))).exclude("old_mask_target", "old_mask_log_prob")
    given, dicts = micro_batch_episodes(batch)
    tu.assign_non_tensor(batch, compute_loss=False, calculate_entropy=False)
    plain = worker.infer_batch(batch.clone(recurse=False))
    tu.assign_non_tensor(batch, **{DRAW_STATES: True})
    out = worker.infer_batch(batch)
    assert torch.equal(out["seg_states"].values(), plain["seg_states"].values()) is (form == "mask")
    episodes = [episode_from_dict(d) for d in dicts]
    scoring = recipe_scoring(recipe)
    states = scoring.states(episodes, out)
    requests = [r for r in map(scoring.reward_request, given, episodes, states) if r is not None]
    expected = pool.score(requests)
    rows = [row.reshape(-1).numpy() for row in rows_without_dummy(out["seg_ious"])]
    found = ScoredInPass(episodes, rows).score(requests)
    assert len(found) == len(expected) == len(ROWS)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(mine.video_ious), np.array(theirs.video_ious), atol=2e-3)
        np.testing.assert_allclose(mine.keyframe_ious, theirs.keyframe_ious, atol=2e-3)
    assert sum(sum(mine.keyframe_ious) for mine in found) > 0
    assert any(not any(e.turns[0].seg_positions for _ in e.turns) for e in episodes), "one without [SEG] is among them"


def test_turns_without_or_with_several_tokens(sample: Sample) -> None:
    def turn(*positions: int) -> Turn:
        return Turn("", None, None, keyframe=1, seg_positions=list(positions))

    episode = episode_from_dict(
        {"turns": [], "stop": StopReason.ANSWERED, "spatial_frames": (0, 2), "num_frames": sample.clip.num_frames}
    )
    episode.turns = [turn(3, 5), turn(), turn(9)]
    silent = episode_from_dict(
        {"turns": [], "stop": StopReason.CONTEXT_FULL, "spatial_frames": (), "num_frames": sample.clip.num_frames}
    )
    values = np.arange(9, dtype=np.float32) / 10  # three tokens, each its keyframe and two spatial frames
    (scores,) = ScoredInPass([silent, episode], [values[:0], values]).score([SimpleNamespace(with_masks=False)])
    assert scores.keyframe_ious == pytest.approx((0.0, 0.0, 0.6))
    assert np.allclose(scores.video_ious, [(0.1, 0.2), (0.0, 0.0), (0.7, 0.8)])
    with pytest.raises(SegCountMismatchError, match="sequence 0, IoUs"):
        ScoredInPass([episode], [values[:6]]).score([SimpleNamespace(with_masks=False)])
