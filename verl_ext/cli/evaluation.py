"""From the options of ``videoseg eval`` to a running evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import DataError
from verl_ext.cli.eval_targets import Target, keys_of, stream
from verl_ext.recipe.model_size import HEAD_FOLDER

if TYPE_CHECKING:
    from eval.dialogue import InferenceSettings
    from eval.run import Cluster, Inferred
    from eval.score_types import Scores
    from verl_ext.cli.progress import Callback
    from verl_ext.recipe import Recipe

CPU_SETTINGS = ("policy.dtype=float32", "rollout.engine.enforce_eager=true", "pool.gpus_per_worker=0")
BOX_SETTINGS = ("method=veason_r1", "rollout.max_turns=1", "sft_loss.mask_ce=0", "sft_loss.dice=0")
RUN_FILE = "run.json"
"""Beside the results: how they come about; what scoring copies into its files."""


@dataclass(frozen=True)
class Request:
    """The options, as the command line names them."""

    policy: Path
    targets: tuple[Target, ...]
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str | None = None
    gpus: int = 1
    max_samples: int | None = None


@dataclass(frozen=True)
class Finished:
    """One target's results."""

    target: Target
    inferred: Inferred
    scores: Scores | None
    """None where there is no public ground truth."""


def run(request: Request, progress: Callback) -> Iterator[Finished]:
    """Evaluate one target after another on the same engines, which are started only if anything is left to do.

    Raises:
        DataError: no policy in the folder, data that are not what they promise, results of other settings.
        RecipeError: settings that do not fit.
        WorkerError: workers that do not start (any more).
    """
    from eval.run import FAILED_FILE, RESULTS_FILE, Inferred, infer, start_cluster

    if not (request.policy / "config.json").is_file():
        raise DataError(f"{request.policy}: no policy there (no config.json); give a folder in Hugging Face layout")
    recipes = [recipe_of(request, target) for target in request.targets]
    settings = [inference_settings(recipe) for recipe in recipes]
    engine = replace(settings[0], images=max(s.images for s in settings))
    opened = [target.open() for target in request.targets]
    keys = [
        keys_of(t, d, request.max_samples, r.seed) for t, d, r in zip(request.targets, opened, recipes, strict=True)
    ]
    for target, recipe in zip(request.targets, recipes, strict=True):
        record_run(target.out, protocol_of(request, target, recipe), recipe.seed)
    cluster: Cluster | None = None
    try:
        for i, target in enumerate(request.targets):
            left = len(set(keys[i]) - done_keys(target.out / RESULTS_FILE))
            if left:
                cluster = cluster or start_cluster(request.policy, engine, recipes[i].device, request.gpus)
                inferred = infer(
                    cluster,
                    stream(target, opened[i], keys[i]),
                    target.out,
                    total=len(keys[i]),
                    progress=_named(progress, target.benchmark.name, len(request.targets)),
                    environment_settings=settings[i].environment_settings,
                )
            else:
                (target.out / FAILED_FILE).unlink(missing_ok=True)
                inferred = Inferred(target.out / RESULTS_FILE, len(keys[i]), 0)
            yield Finished(target, inferred, _scored(request, target, inferred.results, keys[i], progress))
    finally:
        if cluster is not None:
            cluster.close()


def done_keys(results: Path) -> set[tuple[str, str]]:
    """What a results file holds already; nothing if there is none."""
    from eval.results_index import index_results

    return set(index_results(results)) if results.is_file() else set()


def record_run(out: Path, protocol: dict[str, Any], seed: int) -> None:
    """Write ``run.json``.

    Raises:
        DataError: the folder holds results of another policy or protocol, which must not be mixed with these.
    """
    from data_construction.atomic import write_json
    from eval.run import RESULTS_FILE

    new = json.loads(json.dumps({"protocol": protocol, "seed": seed}))
    path, results = out / RUN_FILE, out / RESULTS_FILE
    if path.is_file() and results.is_file() and results.stat().st_size:
        old = json.loads(path.read_text(encoding="utf-8"))
        mine, theirs = (_lasting(run.get("protocol", {})) for run in (new, old))
        if different := sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)):
            key = different[0]
            raise DataError(
                f"{out}: its results were made with {key} = {theirs.get(key)!r}, this command has {mine.get(key)!r}; "
                "give another --out, or remove that folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, new)


def _lasting(protocol: dict[str, Any]) -> dict[str, Any]:
    """What results must have in common: neither how many were asked for, nor how the engine was dimensioned."""
    rollout = dict(protocol.get("rollout") or {})
    engine = rollout.pop("engine", {})
    return {**protocol, "max_samples": None, "rollout": rollout, "max_model_len": engine.get("max_model_len")}


def _scored(
    request: Request, target: Target, results: Path, keys: Sequence[tuple[str, str]], progress: Callback
) -> Scores | None:
    """Scores, also on disk beside the results; a draw of expressions and any split of a data set have J and F."""
    from eval.results import read_results
    from eval.run_info import read_run_info
    from eval.score import score_results
    from eval.score_benchmark import score_benchmark
    from eval.score_files import write_scores

    benchmark, run_info = target.benchmark, read_run_info(results)
    dataset = benchmark.dataset_at(target.root)
    if benchmark.scorer is None or dataset.masks is None:
        return None
    if target.official and request.max_samples is None:
        scores = score_benchmark(results, benchmark, target.root, run=run_info, progress=progress)
    else:
        wanted = [benchmark.sample(dataset, *key) for key in keys]
        chosen = [r for r in read_results(results) if r.key in set(keys)]
        scores = score_results(chosen, wanted, protocol=run_info.protocol, seed=run_info.seed, progress=progress)
    write_scores(scores, target.out)
    return scores


def _named(progress: Callback, name: str, count: int) -> Callable[[int, int, str], None]:
    return lambda done, total, what: progress(done, total, what if count == 1 else f"{name}: {what}")


def recipe_of(request: Request, target: Target) -> Recipe:
    """The recipe whose dialogue and engine are used, with this policy and these data in it.

    Without a recipe of the user's it is the schema's defaults, then the benchmark's protocol, then ``--set``.
    """
    from verl_ext.recipe import load_recipe, recipe_from_overrides

    policy = f"policy.path={json.dumps(str(request.policy))}"  # JSON is YAML, and survives any character of a path
    if request.recipe is not None:
        device = [] if request.device is None else [f"device={request.device}"]
        return load_recipe(request.recipe, [policy, *device, *request.overrides])
    benchmark = target.benchmark
    source = {"dataset": benchmark.dataset, "root": str(target.root), "split": benchmark.split}
    where = request.device or _default_device()
    settings = ["stage=sft", policy, f"data=[{json.dumps(source)}]", f"device={where}"]
    settings += CPU_SETTINGS if where == "cpu" else ()
    settings += [f"{key}={json.dumps(value)}" for key, value in benchmark.protocol.items()]
    if not (request.policy / HEAD_FOLDER).is_dir():
        settings += BOX_SETTINGS
    return recipe_from_overrides("eval", [*settings, *request.overrides])


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def inference_settings(recipe: Recipe) -> InferenceSettings:
    """How dialogues are decoded, from a recipe."""
    from eval.dialogue import InferenceSettings
    from verl_ext.render import images_per_dialogue
    from verl_ext.rollout_settings import conversation_limits, environment_of

    environment, settings = environment_of(recipe, evaluation=True)
    engine = recipe.rollout.engine
    return InferenceSettings(
        environment=environment,
        environment_settings=settings,
        **conversation_limits(recipe),
        turn_length=recipe.rollout.turn_length,
        images=images_per_dialogue(recipe),
        dtype=recipe.policy.dtype,
        concurrency=engine.max_num_seqs,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        enforce_eager=engine.enforce_eager,
        tensor_parallel=engine.tensor_parallel,
        sam2_preset=recipe.pool.preset,
        sam2_checkpoint=recipe.pool.checkpoint,
        cache_frames=recipe.pool.cache_frames,
    )


def protocol_of(request: Request, target: Target, recipe: Recipe) -> dict[str, Any]:
    """What the scores file says about how the results came about."""
    from dataclasses import asdict

    benchmark = target.benchmark
    return {
        "policy": str(request.policy),
        "benchmark": benchmark.name if target.official else None,
        "dataset": benchmark.dataset,
        "split": benchmark.split,
        "frames_a_clip": benchmark.frames or "all",
        "max_samples": request.max_samples,
        "method": recipe.method,
        "rollout": asdict(recipe.rollout),
    }
