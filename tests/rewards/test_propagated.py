"""Rewards of the masks that users get."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rewards import BoxRewardInput, RewardInput, compute_rewards
from rewards.registry import mask_reward_names, propagation_reward_names
from rewards.types import PropagatedScores
from rollout.errors import ProtocolError

NAMES = ("n_acc", "propagated_iou", "propagated_jf", "t_acc")
SCORES = PropagatedScores([0.5, 1.0, 0.0], [0.25, 1.0, 0.5], [True, False, True])
EMPTY = PropagatedScores([1.0, 1.0], [1.0, 1.0], [False, False], has_target=False)
DRAWN = PropagatedScores([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [False, True, True, True], has_target=False)
Inputs = Sequence[RewardInput | BoxRewardInput]
Both = Callable[[PropagatedScores | None], Inputs]


@pytest.fixture
def both() -> Both:
    def build(scores: PropagatedScores | None) -> Inputs:
        seg = RewardInput(["a"], [1, 0], [[0.5]], [0.5], propagated=scores)
        return seg, BoxRewardInput("a", [0], [[[0, 0, 1, 1]]], [4], propagated=scores)

    return build


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (SCORES, (0.0, 0.5, 0.5 * (0.5 + 1.75 / 3), 1.0)),
        (EMPTY, (1.0, 1.0, 1.0, 0.0)),
        (DRAWN, (0.0, 0.25, 0.25, 0.0)),
        (PropagatedScores([0.0], [0.0], [False]), (0.0, 0.0, 0.0, 0.0)),
        (PropagatedScores(), (0.0, 0.0, 0.0, 0.0)),
        (PropagatedScores(has_target=False), (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_both_kinds_of_answers_earn_the_same(both: Both, scores: PropagatedScores, expected: tuple[float, ...]) -> None:
    for x in both(scores):
        found = compute_rewards(x, NAMES)
        assert [found[name] for name in NAMES] == pytest.approx(expected)


def test_a_mask_costs_more_the_more_frames_have_one(both: Both) -> None:
    values = []
    for drawn in range(4):
        quality = [0.0] * drawn + [1.0] * (3 - drawn)
        x = both(PropagatedScores(quality, quality, [q == 0 for q in quality], has_target=False))[0]
        values.append(compute_rewards(x, ["propagated_jf"])["total"])
    assert values == sorted(values, reverse=True) and len(set(values)) == 4 and values[0] == 1.0


def test_masks_that_were_not_asked_for_are_our_own_mistake(both: Both) -> None:
    for x in both(None):
        for name in NAMES:
            with pytest.raises(ProtocolError, match=f"reward '{name}' needs the masks after propagation"):
                compute_rewards(x, [name])


def test_they_count_as_rewards_of_masks() -> None:
    assert propagation_reward_names() == [*NAMES, "verification_change"]
    assert set(NAMES) <= set(mask_reward_names())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"j": [0.5, 1.5]}, "propagated scores, J, entry 1: found 1.5"),
        ({"f": [float("nan"), 1]}, "propagated scores, F, entry 0: found nan"),
        ({"j": [0.5]}, "J of 1 frames, F of 2, masks of 2"),
        ({"predicted": [True]}, "J of 2 frames, F of 2, masks of 1"),
    ],
)
def test_scores_that_do_not_fit_together_raise(changes: dict[str, list[float]], message: str) -> None:
    good: dict[str, list[float]] = {"j": [1, 1], "f": [1, 1], "predicted": [True, True]}
    with pytest.raises(ProtocolError, match=message):
        PropagatedScores(**{**good, **changes})  # type: ignore[arg-type]
