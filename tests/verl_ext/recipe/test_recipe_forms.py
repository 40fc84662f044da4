"""Rules of the forms of our own: what contradicts itself is refused with its key and the remedy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rewards.truth import legible_frames
from rollout.errors import DataError, RecipeError
from rollout.types import Clip, Expression, Sample
from verl_ext.recipe import Recipe
from verl_ext.scoring.rollouts import recipe_scoring
from verl_ext.scoring.seg import SegScoring

NO_MASK_REWARD = (
    "rewards.weights={strict_format: 1, step_format: 1, keyframe_hit: 1, mask_iou: 0, keyframe_vs_mask: 0, "
    "progressive_keyframe: 0, interval: 0}"
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("objective.calibration.sigma=0",), r"objective\.calibration\.sigma: 0 draws nothing.*above 0"),
        (
            ("objective.calibration.form=state", "objective.calibration.sigma=-0.5"),
            r"objective\.calibration\.sigma: -0\.5.*for example 0\.3",
        ),
        (
            ("objective.calibration.form=state", "objective.calibration.frames=all"),
            r"objective\.calibration\.frames: all with form: state",
        ),
        (
            ("objective.credit=by_part", NO_MASK_REWARD),
            r"objective\.credit: by_part, but rewards\.weights has no reward of masks.*mask_iou.*credit=whole",
        ),
        (("objective.credit=by_parts",), "objective.credit"),
        (("rewards.existence=near",), "rewards.existence"),
    ],
)
def test_refused_with_key_and_remedy(tiny_recipe: Callable[..., Recipe], settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        tiny_recipe("grpo", *settings)


def test_credit_by_part_needs_seg_tokens(tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"objective\.credit: by_part with method: veason_r1"):
        tiny_recipe("grpo", "objective.credit=by_part", "method=veason_r1")


def test_what_is_offered_is_accepted(tiny_recipe: Callable[..., Recipe]) -> None:
    forms = ("objective.calibration.form=state", "objective.credit=by_part", "objective.aux_trains=head")
    recipe = tiny_recipe("grpo", *forms, "rewards.existence=legible")
    scoring = recipe_scoring(recipe)
    assert isinstance(scoring, SegScoring) and scoring.existence == "legible"
    plain = recipe_scoring(tiny_recipe("grpo"))
    assert isinstance(plain, SegScoring) and plain.existence == "visible"


def test_legible_frames_are_the_data_sets_or_an_error() -> None:
    clip = Clip("c", tuple(f"{t}.jpg" for t in range(6)), 8, 8)
    known = Sample(clip, Expression("0", "the barred disc", ("1",), legible=(2, 3)))
    assert np.array_equal(legible_frames(known), [0, 0, 1, 1, 0, 0])
    assert not legible_frames(Sample(clip, Expression("0", "nothing like it"))).any()
    with pytest.raises(DataError, match=r"c/0: .*rewards\.existence=visible"):
        legible_frames(Sample(clip, Expression("0", "the barred disc", ("1",))))
