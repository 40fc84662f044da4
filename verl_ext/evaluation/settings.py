"""Recipe and inference settings of ``videoseg eval``; what evaluation could not honour is refused before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from rollout.errors import RecipeError
from verl_ext.recipe.model_size import HEAD_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    from eval.inference.dialogue import InferenceSettings
    from verl_ext.evaluation.request import Request
    from verl_ext.evaluation.targets import Target
    from verl_ext.recipe import Recipe

CPU_SETTINGS = ("policy.dtype=float32", "rollout.engine.enforce_eager=true", "pool.gpus_per_worker=0")
SEG_PROTOCOL = ("rollout.turn_length=1024", "rollout.response_length=5120")
"""Released, unless the benchmark's protocol says otherwise; room for three such turns and the frames between them."""
BOX_SETTINGS = ("method=veason_r1", "rollout.max_turns=1", "sft_loss.mask_ce=0", "sft_loss.dice=0")
BOX_PROTOCOL = ("rollout.turn_length=1024", "rollout.box_frames=8")
BOX_SIDE = 560
PROTOCOLS = {"masks": SEG_PROTOCOL, "boxes": BOX_PROTOCOL, "both": BOX_PROTOCOL}
METHODS = {
    "masks": (),
    "boxes": BOX_SETTINGS,
    "both": ("rollout.environment=combined_answers", "rollout.max_turns=1"),
}
"""By what a policy answers."""
OF_ONE_BENCHMARK = ("environment_settings", "images")
"""Inference settings in which benchmarks of one command may differ: the engine does not depend on them."""


def recipe_of(request: Request, target: Target) -> Recipe:
    """The recipe whose dialogue and engine are used, with this policy and these data in it.

    Without a recipe of the user's it is the schema's defaults, then the release's protocol, then the benchmark's, then
    ``--set``; the policy is asked in the words in which it was trained, as far as its folder says.
    """
    from verl_ext.recipe import load_recipe, override, recipe_from_overrides
    from verl_ext.recipe.asking import answers_of_policy

    policy = override("policy.path", str(request.policy))
    if request.recipe is not None:
        device = [] if request.device is None else [f"device={request.device}"]
        return load_recipe(request.recipe, [policy, *device, *request.overrides])
    benchmark = target.benchmark
    source = {"dataset": benchmark.dataset, "root": str(target.root), "split": benchmark.split}
    where = request.device or _default_device()
    settings = ["stage=sft", policy, override("data", [source]), f"device={where}"]
    settings += CPU_SETTINGS if where == "cpu" else ()
    protocol = [override(key, value) for key, value in benchmark.protocol.items()]
    answers = answers_of_policy(request.policy, (request.policy / HEAD_FOLDER).is_dir())
    settings += _as_trained(request.policy, answers)
    settings += [*PROTOCOLS[answers], *protocol, *METHODS[answers]]
    return recipe_from_overrides("eval", [*settings, *request.overrides])


def _as_trained(policy: Path, answers: str) -> list[str]:
    """Words and units of a policy: as its training recorded them. A box policy that says nothing is taken for a
    release, or an untrained model."""
    from verl_ext.recipe import override
    from verl_ext.recipe.asking import cell_of_policy, recorded_prompts, setting_of, units_of_policy

    own = recorded_prompts(policy)
    words = [] if own is None else [override("policy.prompt_set", setting_of(own, answers))]
    if answers == "masks":
        return words
    cell = cell_of_policy(policy)
    side = max(1, round(BOX_SIDE / cell)) * cell
    units = [f"rollout.box_units={units_of_policy(policy)}", f"rollout.box_side={side}"]
    return [*(words or ["policy.prompt_set=release_form"]), *units]


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def inference_settings(recipe: Recipe) -> InferenceSettings:
    """How dialogues are decoded, from a recipe."""
    from eval.inference.dialogue import InferenceSettings
    from verl_ext.evaluation.backend import Backend
    from verl_ext.recipe.rollout_settings import conversation_limits, environment_of
    from verl_ext.run.verl_config import images_per_dialogue

    environment, settings = environment_of(recipe, evaluation=True)
    engine = recipe.rollout.engine
    return InferenceSettings(
        environment=environment,
        environment_settings=settings,
        **conversation_limits(recipe, evaluation=True),
        turn_length=recipe.rollout.eval.turn_length or recipe.rollout.turn_length,
        images=images_per_dialogue(recipe),
        backend=Backend(),
        dtype=recipe.policy.dtype,
        concurrency=engine.max_num_seqs,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_gib=engine.kv_cache_gib or 1,
        enforce_eager=engine.enforce_eager,
        vision_attention=engine.vision_attention,
        tensor_parallel=engine.tensor_parallel,
        sam2_preset=recipe.pool.preset,
        sam2_checkpoint=recipe.pool.checkpoint,
        pool_cpus=recipe.pool.cpus_per_worker,
        cache_frames=recipe.pool.cache_frames,
        compile_segmenter=recipe.pool.compile,
    )


def one_engine(targets: Sequence[Target], settings: Sequence[InferenceSettings]) -> InferenceSettings:
    """Settings under which one start of the engines serves every target.

    Raises RecipeError that names target and setting where a benchmark's stanza wants another engine than the first's.
    """
    first = settings[0]
    for target, own in zip(targets, settings, strict=True):
        for name in (f.name for f in fields(first) if f.name not in OF_ONE_BENCHMARK):
            mine, theirs = getattr(own, name), getattr(first, name)
            if mine != theirs:
                raise RecipeError(
                    f"benchmark {target.benchmark.name}: its protocol comes to {name} = {mine!r}, that of "
                    f"{targets[0].benchmark.name} to {theirs!r}, and one command runs one engine; evaluate it in a "
                    "command of its own"
                )
    return replace(first, images=max(s.images for s in settings))


def refuse_unfit(recipe: Recipe) -> None:
    """Raise RecipeError for a policy whose processor cannot be loaded or would resize what it is shown, and for prompts
    that leave no room: minutes later every dialogue would say so."""
    from verl_ext.recipe.policy_processor import processor_problems
    from verl_ext.recipe.prompt_room import prompt_problems

    if problems := [*processor_problems(recipe, evaluation=True), *prompt_problems(recipe, evaluation=True)]:
        raise RecipeError("\n".join(problems))


def refuse_ignored(request: Request, recipe: Recipe) -> None:
    """Raise RecipeError for what was asked for on the command line and would not happen."""
    from eval.inference.cluster import POOL_SHARE

    cuda = recipe.device == "cuda"
    if request.gpus > 1 and not cuda:
        why = "torch sees no CUDA device here" if request.device is None and request.recipe is None else "device is cpu"
        raise RecipeError(
            f"--gpus {request.gpus}, but {why}, so there would be one worker on the CPU; run `videoseg doctor` to see "
            "what is missing, or leave --gpus out"
        )
    engines = request.gpus if cuda else 1
    layout = {"pool.workers": engines, "pool.gpus_per_worker": POOL_SHARE if cuda else 0.0, "pool.share_gpu": False}
    for key in {setting.partition("=")[0].strip() for setting in request.overrides} & layout.keys():
        wanted = attrgetter(key)(recipe)
        if wanted != layout[key]:
            raise RecipeError(
                f"--set {key}={wanted}: evaluation lays its pool out itself, one worker beside each engine (here "
                f"{key}={layout[key]}); --gpus says how many, leave {key} out"
            )
