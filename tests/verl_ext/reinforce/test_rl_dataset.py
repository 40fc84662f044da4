"""Rows of reinforcement prompts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rollout.errors import DataError
from verl_ext.recipe import Recipe
from verl_ext.reinforce.dataset import RLDataset


def test_held_out_rows_come_greedy_and_sampled(
    activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe]
) -> None:
    activate(tiny_recipe("grpo", "trainer.eval_every=1", "trainer.eval_samples=2"))
    rows = [RLDataset(["held_out"])[i] for i in range(4)]
    assert [(r["greedy"], r["__rollout_n__"]) for r in rows] == [(True, 1)] * 2 + [(False, 4)] * 2
    assert rows[0]["sample"] == rows[2]["sample"]
    activate(
        tiny_recipe(
            "grpo",
            "trainer.eval_every=1",
            "trainer.eval_samples=2",
            "trainer.eval_greedy=false",
            "trainer.eval_draws=3",
        )
    )
    sampled = RLDataset(["held_out"])
    assert [(sampled[i]["greedy"], sampled[i]["__rollout_n__"]) for i in range(len(sampled))] == [(False, 3)] * 2


def test_a_run_without_evaluation_needs_no_held_out_data(
    activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe]
) -> None:
    """verl builds its validation loader all the same, and refuses an empty one."""
    activate(tiny_recipe("grpo", "trainer.eval_every=0", "val=[]"))
    assert len(RLDataset(["held_out"])) > 0


def test_no_expressions_are_refused(activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe]) -> None:
    activate(tiny_recipe("grpo", "data.0.kinds=[nothing_is_called_so]"))
    with pytest.raises(DataError, match=r"data\[0\]: .* gives no expressions"):
        RLDataset(["train"])
