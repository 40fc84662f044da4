"""Evaluation on held-out clips inside training: what counts, and what a dialogue that raised counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import verl_ext.reinforce.validation as validation_module
from rollout.errors import DataError, WorkerError
from rollout.types import Episode, Sample
from tests.verl_ext.dialogues import InProcessPool, box_episode, box_recipe, true_answer
from tests.verl_ext.reinforce.test_trainer import Queue, fill, queue, trainer_of
from verl_ext.recipe import Recipe
from verl_ext.reinforce.modes import TRAINERS, VideosegTrainer

assert queue  # a fixture
DRAWS = 4
Evaluate = Callable[..., tuple[dict[str, float], list[str]]]


@pytest.fixture
def evaluate(
    queue: Queue,
    tiny_recipe: Callable[..., Recipe],
    sample: Sample,
    pool: InProcessPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Evaluate:
    """``evaluate(greedy, sampled)``: one held-out prompt's dialogues as replies' makers, those that are missing failed;
    None asks for no greedy one.

    Returns the metrics and what was called in which order.
    """
    monkeypatch.setattr(validation_module, "tq", queue)
    monkeypatch.setattr(queue, "kv_clear", lambda keys, partition_id: None, raising=False)

    def run(
        greedy: Sequence[Any] | None, sampled: Sequence[Any], prompt: Sample = sample, with_pool: bool = True, **of: Any
    ) -> tuple[dict[str, float], list[str]]:
        recipe = box_recipe(tiny_recipe)
        if not with_pool:
            recipe.rewards.weights.pop("veason_consistency")
        trainer = trainer_of(replace(recipe, **of), pool if with_pool else None, tmp_path)
        episodes: list[Episode] = [box_episode(recipe, sample, say) for say in (*(greedy or ()), *sampled)]
        calls = in_order(trainer, monkeypatch)

        def roll_out(rows: Any) -> Any:
            batch = fill(queue, prompt, episodes)
            *firm, last = rows["uid"]
            batch.keys = [f"{uid}_{i}_0" for uid in firm for i in range(len(greedy or ()))]
            batch.keys += [f"{last}_{i}_0" for i in range(len(sampled))]
            batch.tags = [{}] * len(batch.keys)
            return batch

        monkeypatch.setattr(trainer, "_roll_out_held_out", roll_out)
        rows = {"raw_prompt": ["q", "q"], "greedy": [True, False], "__rollout_n__": [1, DRAWS]}
        rows["sample"] = [prompt.to_dict()] * 2
        asked = slice(1 if greedy is None else 0, 2)
        trainer.val_dataloader = [{k: np.array(v[asked], dtype=object) for k, v in rows.items()}]
        return trainer._validate(), calls

    return run


def in_order(trainer: VideosegTrainer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(trainer, "_balance_batch", lambda found, metrics: found)
    trainer.actor_rollout_wg = SimpleNamespace(compute_log_prob=lambda found: calls.append("actor"))
    trainer.checkpoint_manager = SimpleNamespace(
        sleep_replicas=lambda: calls.append("sleep"), update_weights=lambda step: calls.append(f"weights {step}")
    )
    return calls


def nonsense(_: Any) -> str:
    return "no"


@pytest.mark.parametrize("with_pool", [True, False])
def test_greedy_dialogues_give_masks_and_sampled_ones_the_reward(
    evaluate: Evaluate, sample: Sample, with_pool: bool, tmp_path: Path
) -> None:
    metrics, _ = evaluate([true_answer(sample)], [nonsense] * DRAWS, with_pool=with_pool)
    assert ("val/jf" in metrics) == with_pool
    assert metrics["val/greedy_reward/veason_spatial"] == pytest.approx(1.0)
    assert metrics["val/reward/mean"] == metrics["val/failed"] == 0.0  # the sampled dialogues said nothing useful
    (row,) = [json.loads(line) for line in (tmp_path / "held_out.jsonl").read_text().splitlines()]
    assert {k: row.get(k) for k in ("step", *metrics)} == {"step": 2, **metrics}
    assert row["rewards"] == {sample.id: 0.0}


def test_a_failed_dialogue_counts_as_one_that_said_nothing(evaluate: Evaluate, sample: Sample) -> None:
    say = true_answer(sample)
    whole, _ = evaluate([say], [say] * DRAWS)
    missing, _ = evaluate([say], [say] * (DRAWS - 1))
    assert (whole["val/failed"], missing["val/failed"]) == (0.0, 1.0)
    assert missing["val/reward/mean"] == pytest.approx(whole["val/reward/mean"] * (DRAWS - 1) / DRAWS)
    assert missing["val/stop/answered"] == whole["val/stop/answered"] == 1.0


def test_a_failed_greedy_dialogue_scores_0_also_where_there_is_no_target(evaluate: Evaluate, sample: Sample) -> None:
    """Nothing was predicted: the empty masks of a dialogue that never was are not an answer."""
    absent = replace(sample, masklets=replace(sample.masklets, rles=((None,) * sample.clip.num_frames,)))  # type: ignore[type-var]
    said, _ = evaluate([nonsense], [nonsense] * DRAWS, prompt=absent)
    failed, _ = evaluate([], [nonsense] * DRAWS, prompt=absent)
    assert said["val/jf"] == pytest.approx(100.0) and failed["val/jf"] == 0.0


def test_without_greedy_dialogues_there_is_no_jf(evaluate: Evaluate, sample: Sample) -> None:
    metrics, _ = evaluate(None, [true_answer(sample)] * DRAWS)
    assert not [name for name in metrics if "jf" in name or "greedy" in name]
    assert metrics["val/reward/mean"] > 0


def test_a_clip_of_which_nothing_can_be_drawn_counts_0_and_ends_nothing(
    evaluate: Evaluate, sample: Sample, pool: InProcessPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The frames that were shown are sound, another of the clip is not: J&F alone reads it."""
    score, say = pool.score, true_answer(sample)
    broken = {"calls": 0}

    def raises_for_the_first(requests: Sequence[Any]) -> list[Any]:
        whole = [r for r in requests if r.with_masks]
        broken["calls"] += bool(whole)
        if len(whole) > 1 or (whole and broken["calls"] == 2):
            raise DataError("clip a, frame 5, file 00005.jpg: cannot be read")
        return score(requests)

    monkeypatch.setattr(pool, "score", raises_for_the_first)
    whole, _ = evaluate([say] * 4, [say] * DRAWS)
    assert broken["calls"] == 1 + 4
    assert whole["val/failed"] == 1.0 and whole["val/jf"] > 0.0
    (line,) = (tmp_path / "failed_dialogues.jsonl").read_text().splitlines()
    said = {"step": 2, "sample": sample.id, "error": "DataError: clip a, frame 5, file 00005.jpg: cannot be read"}
    assert json.loads(line) == said


def test_too_many_failures_are_no_evaluation(evaluate: Evaluate, sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="step 2: 2 of 5 held-out dialogues failed"):
        evaluate([true_answer(sample)], [nonsense] * 2)
    assert not (tmp_path / "held_out.jsonl").exists()


@pytest.mark.parametrize(("device", "expected"), [("cpu", ["actor"]), ("cuda", ["sleep", "actor", "weights 2"])])
def test_vllm_gives_the_gpu_back_while_the_actor_computes(
    evaluate: Evaluate, sample: Sample, device: str, expected: list[str]
) -> None:
    _, calls = evaluate([true_answer(sample)], [nonsense] * DRAWS, device=device)
    assert calls == expected


@pytest.mark.parametrize(
    ("mode", "device", "expected"),
    [
        ("colocate_async", "cpu", []),
        ("colocate_async", "cuda", ["abort", "sleep", "weights 2", "resume"]),
        ("separate_async", "cuda", []),
    ],
)
def test_training_s_dialogues_are_held_while_vllm_sleeps(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, mode: str, device: str, expected: list[str]
) -> None:
    """They are under way beside the held-out ones; vLLM on GPUs of its own does not sleep."""
    recipe = tiny_recipe("grpo")
    recipe.device, recipe.trainer.mode = device, mode
    trainer: Any = object.__new__(TRAINERS[mode])
    trainer.recipe, trainer.global_steps, calls = recipe, 2, list[str]()
    trainer.checkpoint_manager = SimpleNamespace(
        abort_replicas=lambda: calls.append("abort"),
        sleep_replicas=lambda: calls.append("sleep"),
        update_weights=lambda step: calls.append(f"weights {step}"),
        resume_generation_replicas=lambda: calls.append("resume"),
    )
    with trainer.rollout_makes_room():
        assert calls == expected[:2]
    assert calls == expected
