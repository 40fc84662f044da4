"""What the step's log says of its rollouts' time."""

from __future__ import annotations

import pytest

from verl_ext.inference.traffic import KEY, Traffic, traffic_metrics


def test_shares_are_of_all_dialogues_together() -> None:
    one = Traffic(seconds=2.0, generate_seconds=1.0, picture_seconds=0.5, pictures=15)
    one.answered(1000, 0)
    one.answered(1400, 1200)
    other = Traffic(seconds=6.0, generate_seconds=5.0, pictures=15)
    other.answered(1600, None)
    found = traffic_metrics([{KEY: one.as_dict()}, {"episode": {}}, {KEY: other.as_dict()}])
    assert found["rollout/prefix_cached"] == pytest.approx(1200 / 4000)
    assert (found["rollout/seconds_mean"], found["rollout/seconds_max"]) == (4.0, 6.0)
    assert found["rollout/generate_share"] == pytest.approx(6 / 8)
    assert found["rollout/picture_share"] == pytest.approx(0.5 / 8)
    assert found["rollout/pictures"] == 30


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert traffic_metrics([{"episode": {}}]) == {} == traffic_metrics([])
    assert traffic_metrics([{KEY: Traffic().as_dict()}])["rollout/prefix_cached"] == 0.0


def test_a_block_that_fails_is_timed_too() -> None:
    traffic = Traffic()
    with pytest.raises(ValueError, match="x"), traffic.timed("seconds"):
        raise ValueError("x")
    assert traffic.seconds > 0
