"""The real engine over rows gives what it gives over padded micro-batches: metrics, gradients, ``[SEG]`` outputs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu

from rollout.errors import WorkerError
from tests.verl_ext.batches import as_rollouts, supervised_batch
from tests.verl_ext.engines import gradients_of_step
from tests.verl_ext.two_processes import measure
from verl_ext.engine import rows
from verl_ext.objective.sft_loss import supervised_loss
from verl_ext.policy.head import DECODER_PREFIXES
from verl_ext.recipe import Recipe
from verl_ext.supervised.dataset import SFTDataset

METRICS = {
    "sft": ("loss", "lm", "mask_ce", "dice", "grad_norm"),
    "grpo": ("loss", "actor/pg_loss", "kl_loss", "aux/video", "aux/keyframe", "seg/mask_log_prob", "grad_norm"),
}
SETTINGS = ("optim.lr=1e-9", "trainer.micro_batch=1")
WAYS = {
    "packed": ("policy.packing=packed",),
    "group": ("policy.packing=group",),
    "small rows, checkpointed": ("policy.packing=group", "policy.row_tokens=768", "policy.gradient_checkpointing=true"),
}


@pytest.fixture
def run(build_worker: Any, activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe]) -> Any:
    return lambda *settings: measure(activate(tiny_recipe("sft", *SETTINGS, *settings)), 0, 1)


@pytest.mark.parametrize("extra", [(), ("policy.freeze_vision=true",), ("policy.lora.rank=4", "policy.lora.dropout=0")])
def test_a_step_over_rows_is_a_step_over_micro_batches(run: Any, extra: tuple[str, ...]) -> None:
    wanted = run("policy.packing=none", *extra)
    for way in WAYS.values():
        found = run(*way, *extra)
        for stage, names in METRICS.items():
            (metrics, gradients), (metrics_rows, gradients_rows) = wanted[stage], found[stage]
            for name in names:
                assert metrics_rows[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), (way, stage, name)
            assert gradients.keys() == gradients_rows.keys()
            whole = torch.stack([g.norm() for g in gradients.values()]).norm()
            for name, g in gradients.items():
                assert (gradients_rows[name] - g).norm() < 1e-4 * whole, (way, stage, name)
                size = g.norm().clamp_min(1e-4 * metrics["grad_norm"])
                assert (gradients_rows[name] - g).norm() / size < 1e-3, (way, stage, name)
            assert any(n.startswith(DECODER_PREFIXES) for n in gradients)


GROUPS = (0, 1, 0, 1, 2, 2, 3, 3)
"""Rows of the data of two mini-batches of two groups of two."""


def rollouts(worker: Any, rows: tuple[int, ...]) -> Any:
    """Dialogues of the data as rollouts; a row that is named twice is a group."""
    model = worker.model_config
    batch = supervised_batch(SFTDataset(["train"], model.tokenizer, None, model.processor), rows)
    return as_rollouts(batch, [int(torch.nonzero(m)[0]) for m in batch["loss_mask"].unbind()])


def log_probs(worker: Any, batch: Any) -> list[torch.Tensor]:
    tu.assign_non_tensor(batch, compute_loss=False, calculate_entropy=True)
    return list(worker.infer_batch(batch)["log_probs"].unbind())


@pytest.mark.parametrize("packing", ["packed", "group"])
def test_old_log_probs_and_updates_share_rows_so_that_the_ratio_is_1(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], packing: str
) -> None:
    """To the bit: also where a step has two updates, each of them with rows of its own."""
    settings = (
        "trainer.mini_batch_prompts=2",
        "rollout.group_size=2",
        f"policy.packing={packing}",
        "trainer.grad_every=0",
    )
    worker = build_worker(tiny_recipe("sft", *SETTINGS, *settings))
    given = rollouts(worker, GROUPS)
    old = log_probs(worker, given)
    tokens = [len(ids) for ids in given["input_ids"].unbind()]
    prompts = [len(ids) for ids in given["prompts"].unbind()]
    shared = prompts[0] + prompts[1] if packing == "group" else 0  # both mini-batches fit a row; each group of two
    later = prompts[4] + prompts[6] if packing == "group" else 0
    assert worker.engine.longest_row == max(sum(tokens[:4]) - shared, sum(tokens[4:]) - later)
    seen: dict[int, torch.Tensor] = {}

    def loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
        rows = (row.detach() for row in model_output["log_probs"].unbind())
        seen.update(zip(data["number"].tolist(), rows, strict=True))
        return model_output["log_probs"].values().sum(), {}

    worker.engine.optimizer_step = lambda: 0.0  # both updates are of the same weights
    for numbers in (range(4), range(4, 8)):
        batch = rollouts(worker, tuple(GROUPS[i] for i in numbers))
        batch["number"] = torch.tensor(numbers)
        gradients_of_step(worker, batch, partial(loss, None))
    assert sorted(seen) == list(range(8))
    assert all(torch.equal(seen[i], x) for i, x in enumerate(old))


def test_a_lone_process_gives_gathered_parameters_back_after_a_pass_without_gradients(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps them from the forward to the backward pass, which log-probs have none of."""
    worker = build_worker(tiny_recipe("sft", *SETTINGS, "policy.gradient_checkpointing=false"))
    batch = rollouts(worker, (0, 1))

    def gathered() -> int:
        return sum(not isinstance(p, DTensor) for p in worker.engine.module.parameters())

    for give_back in (True, False):
        if not give_back:
            monkeypatch.setattr(worker.engine, "_give_back_gathered", lambda: None)
        log_probs(worker, batch.clone(recurse=False))
        assert (gathered() == 0) is give_back


def test_out_of_memory_says_in_which_pass_and_what_to_lower(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for packing, key in (("group", r"policy.row_tokens \(now 16384\)"), ("none", r"trainer.micro_batch \(now 1\)")):
        worker = build_worker(tiny_recipe("sft", *SETTINGS, f"policy.packing={packing}"))
        monkeypatch.setattr(worker.engine, "forward_step", full)
        with pytest.raises(WorkerError, match=f"in the log-prob pass.*lower {key}, or set policy.gradient_checkpoint"):
            log_probs(worker, rollouts(worker, (0, 1)))
        worker.set_loss_fn(partial(supervised_loss, config=None))
        with pytest.raises(WorkerError, match="in the update"):
            worker.train_batch(rollouts(worker, (0, 1)))


def test_out_of_memory_for_adam_says_what_it_holds(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = build_worker(tiny_recipe("sft", *SETTINGS))
    worker.set_loss_fn(partial(supervised_loss, config=None))

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(worker.engine.optimizer, "step", full)
    with pytest.raises(WorkerError, match=r"in the optimizer's step.*actor_processes \(now 1\).*policy.lora.rank"):
        gradients_of_step(
            worker, rollouts(worker, (0, 1)), lambda model_output, **_: (model_output["log_probs"].values().sum(), {})
        )


def test_the_log_says_which_way_runs(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    for packing, said in (("none", "a micro-batch of 1, attention sdpa"), ("group", "every prompt once a group")):
        build_worker(tiny_recipe("sft", *SETTINGS, f"policy.packing={packing}"))
        assert any(said in message for message in caplog.messages)
        caplog.clear()


def test_verl_still_divides_batches_by_a_function_of_its_module() -> None:
    """An engine whose user can divide them by a method needs no patch in ``RowEngine.forward_backward_batch``."""
    import inspect

    from verl.workers.engine.fsdp import FSDPEngineWithLMHead
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    assert "= prepare_micro_batches(" in inspect.getsource(FSDPEngine.forward_backward_batch)
    assert not hasattr(FSDPEngineWithLMHead, "prepare_micro_batches"), "override it in RowEngine, and drop the patch"


def test_rows_are_made_on_the_gpu_of_their_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving a stream goes back to the thread's own device: 0, where no other process may take memory."""
    on = threading.local()
    seen: list[int] = []
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(rows, "get_device_name", lambda: "cuda")
    monkeypatch.setattr(rows, "get_device_id", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(on, "device", device))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda it: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)

    def made() -> Any:
        seen.append(getattr(on, "device", 0))
        return SimpleNamespace(map=lambda change: "row")

    assert list(rows._ahead([made, made])) == ["row", "row"] and seen == [3, 3]
