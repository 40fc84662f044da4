"""Where an update's seconds go inside one process: ``python -m benchmarks.update_profile --device cuda --policy 2b``.

The training worker as an RL step has it, without Ray, vLLM and pool: groups of replayed traces (all rollouts of a group
are one trace, ``[SEG]`` masks included) run through the log-prob pass and the update. Seconds of both, of the update
with all cached memory given back before it (verl does so in each step, for vLLM, and then allocates in expandable
segments; plain ones are beside them) and of the optimiser, with what the allocator asked of CUDA meanwhile; then an
update of fewer groups under torch's profiler: share of the time in which the device is busy, the kernels that take
most, what waits for the device and how often, memory calls; and how many graphs were compiled. ``--trace FILE`` keeps
the whole timeline (Perfetto).
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

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
MEMORY = {
    "num_alloc_retries": 1.0,
    "num_device_alloc": 1.0,
    "num_device_free": 1.0,
    "reserved_bytes.all.allocated": 2**-30,
    "reserved_bytes.all.freed": 2**-30,
}
"""Counts of torch's allocator (calls that map memory are among the first three) and what one is in the figures' unit:
calls, and GiB."""
RATIO = ("actor/ppo_kl",)
"""Zero in a first update, whose weights are those of the log-prob pass."""
Sums = dict[str, list[int]]
"""By name: calls and nanoseconds."""


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


def update(worker: Any, batch: Any) -> dict[str, Any]:
    """One; returns its metrics."""
    from verl.utils import tensordict_utils as tu

    found = worker.train_batch(batch.clone(recurse=False))
    return dict(tu.get(found, "metrics"))


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
    print(f"  {'profiled':36s} {wall:8.3f} s", flush=True)
    if trace:
        seen.export_chrome_trace(trace)
    return summed(seen.profiler.kineto_results.events(), torch.autograd.DeviceType.CUDA, wall)


def summed(events: Iterable[Any], on_device: Any, wall: float) -> dict[str, Any]:
    """Kineto's raw events by name; torch's own lists of them take minutes where there are a million."""
    spans: list[tuple[float, float]] = []
    kernels: Sums = defaultdict(lambda: [0, 0])
    host: list[tuple[int, int, int, str, int]] = []
    threads: dict[int, int] = {}
    for e in events:
        name, begin, length = e.name(), e.start_ns(), e.duration_ns()
        if e.device_type() == on_device:
            if not e.is_user_annotation():  # it spans kernels
                spans.append((begin, begin + length))
                add(kernels, name, length)
        elif not e.is_async() and e.start_thread_id() == e.end_thread_id():
            thread, caller = e.start_thread_id(), e.linked_correlation_id()
            if caller == 0 and not name.startswith("cu"):  # CUDA's own calls are numbered by themselves
                threads[e.correlation_id()] = thread
            host.append((thread, begin, -length, name, caller))
    calls = host_times(host, threads)
    by_time = sorted((kernels or calls).items(), key=lambda found: -found[1][1])
    return {
        "wall_seconds": wall,
        "device_busy_share": round(covered(spans) / 1e9 / wall, 3),
        "most_time": [{"name": name[:120], **as_row(found)} for name, found in by_time[:KERNELS]],
        "calls": {name: as_row(calls[name]) for name in WAITS if name in calls},
    }


def host_times(host: list[tuple[int, int, int, str, int]], threads: dict[int, int]) -> Sums:
    """Calls and their own nanoseconds, by name: without the calls inside. CUDA's calls come with a thread number of
    their own, and belong to the thread of the operation that they name."""
    sums: Sums = defaultdict(lambda: [0, 0])
    inside: list[tuple[int, str]] = []  # (end, name) of the calls that are open
    last = None
    for thread, begin, minus, name in sorted((threads.get(c, t), b, m, n) for t, b, m, n, c in host):
        if thread != last:
            inside, last = [], thread
        while inside and inside[-1][0] <= begin:
            inside.pop()
        if inside:
            sums[inside[-1][1]][1] += minus
        add(sums, name, -minus)
        inside.append((begin - minus, name))
    return sums


def add(sums: Sums, name: str, length: int) -> None:
    sums[name][0] += 1
    sums[name][1] += length


def as_row(found: list[int]) -> dict[str, Any]:
    return {"calls": found[0], "ms": round(found[1] / 1e6, 2)}


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


@contextmanager
def memory_traffic(into: dict[str, Any], name: str, cuda: bool, repeats: int) -> Iterator[None]:
    """What the allocator asked of CUDA, a repeat, in ``into[name]``."""
    import torch

    before = torch.cuda.memory_stats() if cuda else {}
    yield
    if cuda:
        after = torch.cuda.memory_stats()
        into[name] = {k: round((after[k] - before[k]) * unit / repeats, 2) for k, unit in MEMORY.items() if k in after}


def measure(args: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The figures; ``keep`` gets them also before the profiler starts, which may take long."""
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

    cuda = args.device == "cuda"
    if cuda:
        set_expandable_segments(True)  # as verl has it in all passes
    worker = training_worker(recipe)
    config = omega_conf_to_dataclass(grpo_config(replace(recipe, stage="grpo")).actor_rollout_ref.actor)
    worker.set_loss_fn(partial(rl_loss, config=config))
    batch = rollouts(worker, args.groups, args.rollouts)
    engine = worker.engine
    seen: list[dict[str, Any]] = []
    step = partial(update, worker, batch)
    run = lambda: seen.append(step())  # noqa: E731
    spent: dict[str, float] = {}
    memory: dict[str, Any] = {}

    def timed(name: str, what: Callable[[], Any], repeats: int, before: Callable[[], Any] = lambda: None) -> None:
        with memory_traffic(memory, name, cuda, repeats):
            spent[name] = seconds(what, args.device, repeats, before)
        print(f"  {name:36s} {spent[name]:8.3f} s  {memory.get(name, '')}", flush=True)

    timed("first_update", run, 1)
    first = {k: float(np.mean(seen[0][k])) for k in RATIO if k in seen[0]}
    print(f"  first update (0 expected): {first}", flush=True)
    run()
    seen.clear()
    timed("log_probs", partial(log_probs, worker, batch), args.repeats)
    timed("update", run, args.repeats)
    mfu = median(float(m["mfu"]) for m in seen)
    for kind in ("plain", "expandable") if cuda else ():
        set_expandable_segments(kind == "expandable")
        timed(f"update_after_empty_cache_{kind}", run, args.repeats, torch.cuda.empty_cache)
    optimiser: list[float] = []
    whole = engine.optimizer_step
    engine.optimizer_step = lambda: timed_into(optimiser, whole, args.device)
    run()
    engine.optimizer_step = whole
    spent["optimiser"] = optimiser[0]
    print(f"  {'optimiser':36s} {optimiser[0]:8.3f} s", flush=True)
    compiled = torch._dynamo.utils.counters
    figures: dict[str, Any] = {
        "settings": [*args.set, f"groups={args.groups}", f"rollouts={args.rollouts}"],
        "tokens": int(batch["input_ids"].values().numel()),
        "first_update": first,
        "seconds": spent,
        "memory": memory,
        "update_mfu": mfu,
        "forward_tflop": float(f"{engine.work.forward / 1e12:.4g}"),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "profile": None,
        "graphs": {"compiled": compiled["stats"]["unique_graphs"], "given_up": dict(compiled["graph_break"])},
    }
    keep(figures)
    groups = args.profile_groups or max(1, args.groups // 4)
    part = rollouts(worker, groups, args.rollouts)
    step = partial(update, worker, part)
    run()  # its shapes may want kernels of their own
    of = {"groups": groups, "rollouts": args.rollouts, "tokens": int(part["input_ids"].values().numel())}
    figures["profile"] = {"of": of, **profiled(run, args.device, args.trace)}
    keep(figures)
    return figures


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
    parser.add_argument("--profile-groups", type=int, help="groups of the profiled update; default: a quarter")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    parser.add_argument("--trace", help="write the profiler's timeline here")
    parser.add_argument("--work", default="runs/benchmarks/grpo_step", help="folder for data and policy")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    facts = {"benchmark": "update_profile", **environment_facts(args.device), "policy": args.policy}
    figures = measure(args, lambda found: write_json(args.json, facts | found) if args.json else None)
    seen = figures["profile"]
    print(f"  MFU {figures['update_mfu']:.3f}; busy {seen['device_busy_share']}; graphs {figures['graphs']}")
    for row in seen["most_time"]:
        print(f"  {row['ms']:9.2f} ms {row['calls']:7d}  {row['name']}")
    for name, row in seen["calls"].items():
        print(f"  {row['ms']:9.2f} ms {row['calls']:7d}  {name} (host)")


if __name__ == "__main__":
    main()
