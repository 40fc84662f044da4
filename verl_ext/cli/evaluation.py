"""From the options of ``videoseg eval`` to a running evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import DataError
from verl_ext.recipe.model_size import HEAD_FOLDER

if TYPE_CHECKING:
    from eval.inference import InferenceSettings
    from eval.score_types import Scores
    from rollout.types import Sample
    from verl_ext.cli.progress import Callback
    from verl_ext.recipe import Recipe

CPU_SETTINGS = ("policy.dtype=float32", "rollout.engine.enforce_eager=true", "pool.gpus_per_worker=0")
BOX_SETTINGS = ("method=veason_r1", "rollout.max_turns=1", "sft_loss.mask_ce=0", "sft_loss.dice=0")


@dataclass(frozen=True)
class Request:
    """The options, as the command line names them."""

    policy: Path
    dataset: str
    root: Path
    split: str
    out: Path
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str | None = None
    gpus: int = 1
    max_samples: int | None = None


def run(request: Request, progress: Callback) -> Scores:
    """Start the engines, evaluate, and stop them again.

    Raises:
        DataError: no policy in the folder, or a data set that is not what it promises.
        RecipeError: settings that do not fit.
    """
    from eval.run import evaluate, start_cluster

    if not (request.policy / "config.json").is_file():
        raise DataError(f"{request.policy}: no policy there (no config.json); give a folder in Hugging Face layout")
    recipe = recipe_of(request)
    samples = samples_of(request, recipe.seed)
    cluster = start_cluster(request.policy, inference_settings(recipe), recipe.device, request.gpus)
    try:
        return evaluate(
            cluster, samples, request.out, progress=progress, protocol=protocol_of(request, recipe), seed=recipe.seed
        )
    finally:
        cluster.close()


def recipe_of(request: Request) -> Recipe:
    """The recipe whose dialogue and engine are used, with this policy and these data in it."""
    from verl_ext.recipe import load_recipe, recipe_from_overrides

    policy = f"policy.path={json.dumps(str(request.policy))}"  # JSON is YAML, and survives any character of a path
    if request.recipe is not None:
        device = [] if request.device is None else [f"device={request.device}"]
        return load_recipe(request.recipe, [policy, *device, *request.overrides])
    source = {"dataset": request.dataset, "root": str(request.root), "split": request.split}
    where = request.device or _default_device()
    settings = ["stage=sft", policy, f"data=[{json.dumps(source)}]", f"device={where}"]
    settings += CPU_SETTINGS if where == "cpu" else ()
    if not (request.policy / HEAD_FOLDER).is_dir():
        settings += BOX_SETTINGS
    return recipe_from_overrides("eval", [*settings, *request.overrides])


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def samples_of(request: Request, seed: int) -> Sequence[Sample]:
    """The split's expressions in their order, or a fixed draw of ``max_samples`` of them."""
    import numpy as np

    from data_construction.readers import open_dataset

    samples = list(open_dataset(request.dataset, request.root, request.split).samples())
    if request.max_samples is None or request.max_samples >= len(samples):
        return samples
    drawn = np.random.default_rng(seed).permutation(len(samples))[: request.max_samples]
    return [samples[i] for i in sorted(drawn)]


def inference_settings(recipe: Recipe) -> InferenceSettings:
    """How dialogues are decoded, from a recipe."""
    from eval.inference import InferenceSettings
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
    )


def protocol_of(request: Request, recipe: Recipe) -> dict[str, Any]:
    """What the scores file says about how the results came about."""
    from dataclasses import asdict

    return {
        "policy": str(request.policy),
        "dataset": request.dataset,
        "split": request.split,
        "max_samples": request.max_samples,
        "method": recipe.method,
        "rollout": asdict(recipe.rollout),
    }
