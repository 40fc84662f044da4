"""Where an update's seconds go inside one process: ``python -m benchmarks.update_profile --device cuda --policy 2b``.

The training worker as an RL step has it, without Ray, vLLM and pool: groups of replayed traces (all rollouts of a group
are one trace, ``[SEG]`` masks included) run through the log-prob pass and the update. Seconds of both, of the update
with all cached memory given back before it (verl does so in each step, for vLLM, and then allocates in expandable
segments; plain ones are beside them) and of the optimiser; then one update under torch's profiler: share of the time in
which the device is busy, the kernels that take most, what waits for the device and how often, memory calls, and how
many graphs were compiled. ``--trace FILE`` keeps the whole timeline (Perfetto).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.common import environment_facts, write_json
from benchmarks.grpo_shapes import RECIPES, SHAPES, make_data, make_policy

WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "cudaMalloc",
    "cudaFree",
    "cudaHostAlloc",
    "cudaMemcpyAsync",
    "cudaLaunchKernel",
)
"""Calls that are counted."""
KERNELS = 25
"""That are listed."""


def make_recipe(args: argparse.Namespace, work: Path) -> Any:
    """The cold start's recipe, whose data is replayed traces, at the shape and with the batch of an RL step."""
    import json

    from verl_ext.quickstart.settings import ONE_GPU
    from verl_ext.recipe import load_recipe, override

    shape = SHAPES[args.policy]
    data, policy = make_data(work, shape.side, 24), work / f"policy_{args.policy}"
    traces = data / "vts_cot_train.json"
    if not (policy / "config.json").exists():
        make_policy(policy, args.policy, args.device, json.loads(traces.read_text()))
    places = {"policy.path": policy, "output_dir": work / "update_profile"}
    for i in (0, 1):
        places |= {f"data.{i}.root": data, f"data.{i}.annotations": traces}
    settings = [
        *(override(key, str(value)) for key, value in places.items()),
        *(ONE_GPU if args.device == "cuda" else ["trainer.actor_processes=1"]),
        "rollout.max_turns=3",
        "rollout.response_length=640",
        "rollout.engine.max_model_len=1024",
        *shape.settings,
        "trainer.micro_batch=1",
        f"trainer.prompts_per_step={args.groups}",
        f"rollout.group_size={args.rollouts}",
        "trainer.grad_every=0",
        *args.set,
    ]
    return load_recipe(RECIPES / "quickstart" / "cold_start.yaml", settings)


def use(recipe: Any, work: Path) -> None:
    """Make it the active one, and this process a group of one; before verl is imported."""
    from verl_ext.recipe import save_resolved
    from verl_ext.recipe.context import RECIPE_ENV

    save_resolved(recipe, work / "update_profile.yaml")
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ |= alone | {RECIPE_ENV: str(work / "update_profile.yaml")}
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_ext.plugin"
    if recipe.device == "cpu":
        os.environ["VERL_PLATFORM"] = "cpu"
    import torch

    backend = "gloo" if recipe.device == "cpu" else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, rank=0, world_size=1, store=torch.distributed.HashStore())


def rollouts(worker: Any, groups: int, size: int) -> Any:
    """A batch as an update gets it, with the log-probs of this policy as old ones and as the reference's."""
    import torch
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    from tests.verl_ext.batches import as_rollouts, jagged, supervised_batch
    from verl_ext.supervised.dataset import SFTDataset

    model = worker.model_config
    dataset = SFTDataset(["train"], model.tokenizer, None, model.processor)
    rows = [i for i in range(groups) for _ in range(size)]
    batch = supervised_batch(dataset, rows, micro_batch=1)
    tu.assign_non_tensor(batch, global_batch_size=len(rows))
    batch = as_rollouts(batch, [int(torch.nonzero(m)[0]) for m in batch["loss_mask"].unbind()])
    found = log_probs(worker, batch)
    batch["old_log_probs"] = batch["ref_log_prob"] = response_from_nested(found["log_probs"], batch["response_mask"])
    signs = [1.0 - 2.0 * (i % 2) for i in range(len(rows))]
    batch["advantages"] = jagged([a * m for a, m in zip(signs, batch["response_mask"].unbind(), strict=True)])
    batch["old_mask_target"], batch["old_mask_log_prob"] = found["mask_target"], found["mask_log_prob"]
    return batch


def log_probs(worker: Any, batch: Any) -> Any:
    from verl.utils import tensordict_utils as tu

    given = batch.clone(recurse=False)
    tu.assign_non_tensor(given, compute_loss=False, calculate_entropy=False)
    return worker.infer_batch(given)


def update(worker: Any, batch: Any) -> float:
    """One; returns its MFU."""
    from verl.utils import tensordict_utils as tu

    found = worker.train_batch(batch.clone(recurse=False))
    return float(tu.get(found, "metrics")["mfu"])


def seconds(run: Callable[[], Any], device: str, repeats: int, before: Callable[[], Any] = lambda: None) -> float:
    """Median."""
    import torch

    times = []
    for _ in range(repeats):
        before()
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return round(median(times), 4)


def profiled(run: Callable[[], Any], device: str, trace: str | None) -> dict[str, Any]:
    """What the profiler saw of one run."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=kinds) as seen:
        wall = seconds(run, device, 1)
    if trace:
        seen.export_chrome_trace(trace)
    kernels = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    averages = seen.key_averages()
    by_time = sorted(averages, key=lambda e: -(e.self_device_time_total if kernels else e.self_cpu_time_total))
    return {
        "wall_seconds": wall,
        "device_busy_share": round(covered([(e.time_range.start, e.time_range.end) for e in kernels]) / 1e6 / wall, 3),
        "most_time": [
            {
                "name": e.key[:120],
                "calls": e.count,
                "ms": round((e.self_device_time_total if kernels else e.self_cpu_time_total) / 1000, 2),
            }
            for e in by_time[:KERNELS]
        ],
        "calls": {
            e.key: {"calls": e.count, "ms": round(e.self_cpu_time_total / 1000, 2)} for e in averages if e.key in WAITS
        },
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def measure(args: argparse.Namespace) -> dict[str, Any]:
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    recipe = make_recipe(args, work)
    use(recipe, work)
    import torch
    from verl.utils.config import omega_conf_to_dataclass
    from verl.utils.device import set_expandable_segments

    from tests.verl_ext.engines import training_worker
    from verl_ext.objective.rl_loss import rl_loss
    from verl_ext.run.verl_config import grpo_config

    if args.device == "cuda":
        set_expandable_segments(True)  # as verl has it in all passes
    worker = training_worker(recipe)
    config = omega_conf_to_dataclass(grpo_config(replace(recipe, stage="grpo")).actor_rollout_ref.actor)
    worker.set_loss_fn(partial(rl_loss, config=config))
    batch = rollouts(worker, args.groups, args.rollouts)
    engine, cuda = worker.engine, args.device == "cuda"
    mfus: list[float] = []
    step = partial(update, worker, batch)
    run = lambda: mfus.append(step())  # noqa: E731
    spent: dict[str, float] = {"first_update": seconds(run, args.device, 1)}
    run()
    mfus.clear()
    spent["log_probs"] = seconds(partial(log_probs, worker, batch), args.device, args.repeats)
    spent["update"] = seconds(run, args.device, args.repeats)
    mfu = median(mfus)
    for kind in ("plain", "expandable") if cuda else ():
        set_expandable_segments(kind == "expandable")
        spent[f"update_after_empty_cache_{kind}"] = seconds(run, args.device, args.repeats, torch.cuda.empty_cache)
    optimiser: list[float] = []
    whole = engine.optimizer_step
    engine.optimizer_step = lambda: timed_into(optimiser, whole, args.device)
    run()
    engine.optimizer_step = whole
    spent["optimiser"] = optimiser[0]
    compiled = torch._dynamo.utils.counters
    return {
        "settings": [*args.set, f"groups={args.groups}", f"rollouts={args.rollouts}"],
        "tokens": int(batch["input_ids"].values().numel()),
        "seconds": spent,
        "update_mfu": mfu,
        "forward_tflop": float(f"{engine.work.forward / 1e12:.4g}"),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "profile": profiled(run, args.device, args.trace),
        "graphs": {"compiled": compiled["stats"]["unique_graphs"], "given_up": dict(compiled["graph_break"])},
    }


def timed_into(into: list[float], run: Callable[[], Any], device: str) -> Any:
    found: list[Any] = []
    into.append(seconds(lambda: found.append(run()), device, 1))
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--policy", choices=[n for n, s in SHAPES.items() if not s.boxes], default="tiny")
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--rollouts", type=int, default=4, help="of a group")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    parser.add_argument("--trace", help="write the profiler's timeline here")
    parser.add_argument("--work", default="runs/benchmarks/grpo_step", help="folder for data and policy")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    figures = measure(args)
    for name, value in figures["seconds"].items():
        print(f"  {name:26s} {value:8.3f} s")
    seen = figures["profile"]
    print(f"  MFU {figures['update_mfu']:.3f}; busy {seen['device_busy_share']}; graphs {figures['graphs']}")
    for row in seen["most_time"]:
        print(f"  {row['ms']:9.2f} ms {row['calls']:7d}  {row['name']}")
    for name, row in seen["calls"].items():
        print(f"  {row['ms']:9.2f} ms {row['calls']:7d}  {name} (host)")
    if args.json:
        facts = {"benchmark": "update_profile", **environment_facts(args.device), "policy": args.policy}
        write_json(args.json, facts | figures)


if __name__ == "__main__":
    main()
