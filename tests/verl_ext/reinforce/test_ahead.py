"""Rolling out ahead: which groups a step gets, how many are given out, how old they are; on a queue in memory."""

from __future__ import annotations

import inspect
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import replay_buffer
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync

import verl_ext.reinforce.ahead as ahead
from verl_ext.engine.workers import SegActorWorker
from verl_ext.reinforce.ahead import NO_DIALOGUES, GroupsAsTheyEnd
from verl_ext.reinforce.modes import TRAINERS, ColocateAsyncTrainer, SeparateAsyncTrainer
from verl_ext.reinforce.staleness import staleness_metrics


class Queue:
    """TransferQueue's calls that know keys and tags."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, Any]] = {}

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        return {"train": dict(self.tags)}

    def kv_clear(self, keys: list[str], partition_id: str) -> None:
        for key in keys:
            self.tags.pop(key, None)

    def prompt(self, uid: str, status: str, step: int, dialogues: int = 2) -> None:
        self.tags[uid] = {"is_prompt": True, "status": status, "global_steps": step}
        for i in range(dialogues):
            self.tags[f"{uid}_{i}_0"] = {"global_steps": step, "min_global_steps": step - 1, "seq_len": 3}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    found = Queue()
    monkeypatch.setattr(replay_buffer, "tq", found)
    monkeypatch.setattr(ahead, "tq", found)
    return found


def buffer(strategy: str, most: int, refill: Any = None) -> GroupsAsTheyEnd:
    return GroupsAsTheyEnd(
        trainer_mode="colocate_async",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=most + 1,
        max_off_policy_strategy=strategy,
        sampler_kwargs=OmegaConf.create({}),
        poll_interval=0.0,
        refill_fn=refill,
    )


def test_a_dialogue_that_failed_costs_itself_alone(queue: Queue) -> None:
    """No prompt is given out in its group's place."""
    queue.prompt("a", "failure", 1, dialogues=1)
    queue.prompt("b", "finished", 1)
    batch, metrics = buffer("wait", 1, refill=lambda n: pytest.fail("given out")).sample(1, "train", 2)
    assert batch.keys == ["a_0_0", "b_0_0", "b_1_0"] and metrics == {}
    assert set(queue.tags) == {*batch.keys}


def test_a_batch_of_failed_dialogues_alone_is_said(queue: Queue) -> None:
    queue.prompt("a", "failure", 1, dialogues=0)
    with pytest.raises(RuntimeError, match=NO_DIALOGUES):
        buffer("wait", 1).sample(1, "train", 1)


@pytest.mark.parametrize("status", ["finished", "failure"])
def test_what_is_too_old_is_dropped_and_replaced(queue: Queue, status: str) -> None:
    queue.prompt("old", status, 1)
    queue.prompt("new", "finished", 3)
    given: list[int] = []

    def refill(n: int) -> None:
        given.append(n)
        queue.prompt("other", "finished", 3)

    batch, metrics = buffer("drop", 1, refill).sample(3, "train", 2)
    assert {key[:3] for key in batch.keys} == {"new", "oth"} and given == [1]
    assert metrics["training/off_policy/evicted_samples"] == 1


def test_a_step_waits_for_what_would_get_too_old(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.prompt("slow", "running", 1)
    queue.prompt("fast", "finished", 2)
    waits = buffer("wait", 1)
    waits.step_size = 1
    polled: list[str] = []

    def ends(partition: str, last: float) -> float:
        polled.append(partition)
        queue.prompt("slow", "finished", 1)
        return last

    monkeypatch.setattr(waits, "_wait_for_next_poll", ends)
    batch, _ = waits.sample(2, "train", 1)
    assert polled == ["train"] and batch.keys[0].startswith("slow")  # the oldest first


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(("batches", "most"), [(0.0, 0), (1.0, 1), (1.5, 2), (2.5, 3), (1.0, 3)])
def test_no_order_of_ending_makes_a_dialogue_too_old(
    queue: Queue, batches: float, most: int, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of prompts that end in any order, the slow ones as late as they can; verl's own rule lets some get too old."""
    size, random = 4, Random(0)
    waits = buffer("wait", most)
    waits.step_size = size

    def ends(partition: str, last: float) -> float:
        going = [key for key, tag in queue.tags.items() if tag.get("status") == "running"]
        young = max(queue.tags[key]["global_steps"] for key in going)
        key = random.choice(
            [k for k in going if random.random() < 0.2 or queue.tags[k]["global_steps"] == young] or going
        )
        queue.tags[key]["status"] = "finished"
        return last

    monkeypatch.setattr(waits, "_wait_for_next_poll", ends)
    names, lags = count(), []
    for step in range(1, 60):
        for _ in range(size + int(batches * size if step == 1 else 0)):
            queue.prompt(f"p{next(names)}", "running", step)
        for update in range(updates):
            waits.later = size // updates * (updates - 1 - update)
            batch, _ = waits.sample(step, "train", size // updates)
            assert len(batch.keys) == 2 * size // updates
            lags += [step - tag["global_steps"] for tag in batch.tags]
            queue.kv_clear(batch.keys, "train")
    assert max(lags) == most if batches else max(lags) == 0


@pytest.mark.parametrize(
    ("step", "under_way", "given"),
    [(1, 0, 4), (1, 6, 4), (9, 4, 4), (10, 4, 0), (10, 1, 3), (9, 5, 3)],
)
def test_no_prompt_is_given_out_for_a_step_that_never_comes(
    queue: Queue, step: int, under_way: int, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer: Any = object.__new__(ColocateAsyncTrainer)
    trainer.config = OmegaConf.create({"data": {"train_batch_size": 4}})
    trainer.global_steps, trainer.total_training_steps = step, 10
    for i in range(under_way):
        queue.prompt(f"p{i}", "running", step)
    asked: list[int] = []
    monkeypatch.setattr(trainer, "_add_prompts_to_generate", asked.append)
    assert trainer.prepare_step() == {} and sum(asked) == given


def test_dialogues_of_the_saved_step_are_forgotten(queue: Queue) -> None:
    queue.prompt("learnt", "finished", 1)
    del queue.tags["learnt"]
    queue.prompt("next", "finished", 2)
    ahead.forget_learnt()
    assert set(queue.tags) == {"next", "next_0_0", "next_1_0"}


def test_age_is_that_of_a_dialogues_oldest_weights() -> None:
    tags = [{"min_global_steps": 4, "max_global_steps": 4}, {"min_global_steps": 2, "max_global_steps": 4}]
    assert staleness_metrics(tags, 5) == {
        "rollout/staleness_mean": 1.0,
        "rollout/staleness_max": 2.0,
        "rollout/mixed_share": 0.5,
    }
    assert staleness_metrics([], 5) == {}


def test_every_mode_has_our_step_before_verls() -> None:
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    from verl_ext.reinforce.trainer import VideosegStep

    for mode, cls in TRAINERS.items():
        order = cls.__mro__
        verls = next(c for c in order if c.__module__.startswith("verl."))
        assert order.index(VideosegStep) < order.index(verls)
        assert issubclass(cls, TRAINER_REGISTRY[mode])


def test_verl_still_logs_with_an_argument_that_logging_does_not_know() -> None:
    """Once it does not, `SeparateAsyncTrainer._setup` need not keep it quiet."""
    assert "flush=True" in inspect.getsource(PPOTrainerSeparateAsync._setup)
    assert "_setup" in vars(SeparateAsyncTrainer)


@pytest.mark.parametrize("updates", [1, 2])
def test_weights_kept_for_later_are_a_copy_on_a_cpu_too(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step has more updates than one; verl's `.cpu()` gives the weights themselves there, so that nothing would
    be gone back to."""
    trainer = SimpleNamespace(prompts_per_step=4, mini_batch_prompts=4 // updates)
    monkeypatch.setattr("verl_ext.engine.workers.active_recipe", lambda: SimpleNamespace(trainer=trainer))
    worker: Any = object.__new__(SegActorWorker)
    worker._strategy_handlers = (lambda m: ({"w": (m.weight.detach().cpu(), None)}, None), None)
    module = torch.nn.Linear(2, 2)
    worker.actor = SimpleNamespace(engine=SimpleNamespace(module=module))
    before = module.weight.detach().clone()
    SegActorWorker.save_model_to_cpu(worker, 0)
    with torch.no_grad():
        module.weight += 1
    if updates == 1:
        assert not hasattr(worker, "cpu_saved_models"), "nobody goes back to them"
        return
    state, _ = worker.cpu_saved_models[0]
    assert torch.equal(state["w"][0], before)
