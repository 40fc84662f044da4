"""Recipes rendered for verl: every key that is set is one that verl knows."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.config.algorithm import RolloutCorrectionConfig
from verl.utils.config import omega_conf_to_dataclass

import rollout.environment
import verl_ext.run.verl_config as render
from rollout.environment import make_environment
from rollout.environments.keyframe_exploration import KeyframeExploration
from rollout.errors import RecipeError
from rollout.types import Sample
from rollout.vllm_env import VISION_ATTENTION
from verl_ext.recipe import Recipe, load_recipe
from verl_ext.recipe.rollout_settings import conversation_limits, environment_of
from verl_ext.run.verl_config import grpo_config, images_per_dialogue, ray_values, sft_config
from verl_ext.scoring.rollouts import recipe_scoring

ROOT = Path(__file__).parents[3]
RECIPES = sorted(p for p in (ROOT / "recipes").rglob("*.yaml") if p.parent.name != "bases")
ADDED = {
    # fields of verl's dataclasses that its YAML leaves out: checked by test_verl_takes_the_typed_sections
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "actor_rollout_ref.rollout.name",  # there, but mandatory: it has no value to find
    "engine.mixed_precision",
    # free-form mappings: Hugging Face's config, vLLM's and ray.init's arguments
    "actor_rollout_ref.model.override_config.attn_implementation",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.mm_encoder_attn_backend",
    "model.override_config.attn_implementation",
    "ray_kwargs.ray_init._node_ip_address",
    "ray_kwargs.ray_init.address",
    "ray_kwargs.ray_init.include_dashboard",
    "ray_kwargs.ray_init.num_gpus",
    "ray_kwargs.ray_init.object_store_memory",
}
TYPED = {
    "ppo_trainer": (
        "actor_rollout_ref.model",
        "actor_rollout_ref.actor",
        "actor_rollout_ref.ref.fsdp_config",
        "actor_rollout_ref.rollout",
    ),
    "sft_trainer_engine": ("model", "engine", "optim", "checkpoint"),
}


def config_of(recipe: Recipe) -> Any:
    return (grpo_config if recipe.stage == "grpo" else sft_config)(recipe)


@pytest.fixture(scope="module")
def verls_own() -> dict[str, Any]:
    return {name: render.compose(name, {}) for name in TYPED}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_key_is_added_by_accident(path: Path, verls_own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """``compose`` adds what is missing, so a mistyped key would do nothing at all."""
    given: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(render, "compose", lambda name, values: given.append((name, values)))
    config_of(load_recipe(path))
    ((name, values),) = given
    absent = object()
    unknown = {k for k in values if OmegaConf.select(verls_own[name], k, default=absent) is absent}
    assert unknown <= ADDED and len(values) > 20


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("lora", [0, 4])
def test_verl_takes_the_typed_sections(tiny_recipe: Callable[..., Recipe], stage: str, lora: int) -> None:
    """verl's dataclasses refuse an unknown field."""
    config = config_of(tiny_recipe(stage, f"policy.lora.rank={lora}", "policy.lora.dropout=0"))
    for section in TYPED["ppo_trainer" if stage == "grpo" else "sft_trainer_engine"]:
        assert is_dataclass(omega_conf_to_dataclass(OmegaConf.select(config, section)))


def test_verl_accepts_the_whole_configuration(tiny_recipe: Callable[..., Recipe]) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    for kl, reference in ((0.04, True), (0.0, False)):
        config = grpo_config(tiny_recipe("grpo", f"objective.kl_coef={kl}"))
        assert need_reference_policy(config) == reference and not need_critic(config)
        validate_config(config=config, use_reference_policy=reference, use_critic=False)


SETTINGS: list[tuple[str, str, Any]] = [
    ("trainer.shuffle=false", "data.shuffle", False),
    ("trainer.loader_workers=3", "data.dataloader_num_workers", 3),
    ("seed=7", "data.seed", 7),
    ("rollout.group_size=6", "actor_rollout_ref.rollout.n", 6),
    ("rollout.temperature=0.7", "actor_rollout_ref.rollout.temperature", 0.7),
    ("rollout.top_p=0.5", "actor_rollout_ref.rollout.top_p", 0.5),
    ("objective.kl_coef=0", "actor_rollout_ref.actor.use_kl_loss", False),
    ("objective.clip_ratio=0.3", "actor_rollout_ref.actor.clip_ratio_high", 0.3),
    ("optim.lr=1e-5", "actor_rollout_ref.actor.optim.lr", 1e-5),
    ("optim.betas=[0.8, 0.9]", "actor_rollout_ref.actor.optim.betas", [0.8, 0.9]),
    ("optim.clip_norm=3", "actor_rollout_ref.actor.optim.clip_grad", 3.0),
    ("trainer.save_every=5", "trainer.save_freq", 5),
    ("trainer.eval_every=0", "trainer.test_freq", -1),
    ("trainer.steps=9", "trainer.total_training_steps", 9),
    ("trainer.resume=auto", "trainer.resume_mode", "auto"),
    ("trainer.loggers=[console, wandb]", "trainer.logger", ["console", "wandb", "file"]),
    ("policy.gradient_checkpointing=true", "actor_rollout_ref.model.enable_gradient_checkpointing", True),
    ("policy.lora.rank=4", "actor_rollout_ref.model.lora_rank", 4),
    ("policy.lora.alpha=9", "actor_rollout_ref.model.lora_alpha", 9),
    ("trainer.mode=colocate_async", "trainer.v1.trainer_mode", "colocate_async"),
]

APART = ("trainer.mode=separate_async", "trainer.rollout_processes=2", "trainer.mini_batch_prompts=2")
"""Two updates of a step of four prompts."""


def test_a_mode_arrives_with_what_bounds_it(tiny_recipe: Callable[..., Recipe]) -> None:
    ahead = "trainer.ahead={batches: 2.5, max_staleness: 3, when_stale: drop}"
    for mode, more in (("colocate_async", ()), ("separate_async", APART)):
        v1 = grpo_config(tiny_recipe("grpo", *more, f"trainer.mode={mode}", ahead)).trainer.v1
        assert (v1.trainer_mode, v1[mode].num_warmup_batches) == (mode, 2.5)
        assert (v1.sampler.max_off_policy_threshold, v1.sampler.max_off_policy_strategy) == (4, "drop")


@pytest.mark.parametrize("level", ["null", "token", "sequence"])
def test_rollout_correction_is_truncated_and_recomputes_what_is_old(
    tiny_recipe: Callable[..., Recipe], level: str
) -> None:
    found = grpo_config(tiny_recipe("grpo", f"objective.rollout_correction={{level: {level}, threshold: 3}}"))
    correction = RolloutCorrectionConfig(**found.algorithm.rollout_correction)
    assert correction.rollout_is == (None if level == "null" else level)
    assert correction.rollout_is_threshold == 3.0 and correction.rollout_rs is None and not correction.bypass_mode


def test_vllm_apart_has_processes_and_weights_of_its_own(tiny_recipe: Callable[..., Recipe]) -> None:
    from verl.checkpoint_engine.base import CheckpointEngineRegistry
    from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
    from verl.utils.import_utils import import_external_libs

    config = grpo_config(tiny_recipe("grpo", *APART))
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.nnodes, rollout.n_gpus_per_node) == (1, 2) and not config.actor_rollout_ref.hybrid_engine
    assert config.ray_kwargs.ray_init.num_gpus == 3
    assert config.trainer.v1.separate_async.parameter_sync_step == 2
    import_external_libs(rollout.checkpoint_engine.custom_backend_module)
    assert CheckpointEngineRegistry.get(rollout.checkpoint_engine.backend).__name__ == "BroadcastEngine"
    assert omega_conf_to_dataclass(rollout.checkpoint_engine).backend == rollout.checkpoint_engine.backend
    assert not PPOTrainerSeparateAsync(config)._enable_hybrid_replicas  # it refuses what it cannot do


def test_one_gpu_holds_several_engines_where_each_says_its_cache(tiny_recipe: Callable[..., Recipe]) -> None:
    """vLLM takes the option by the name that verl writes; a CPU's cache comes in the environment."""
    from verl.workers.rollout.vllm_rollout.utils import build_cli_args_from_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cache = "rollout.engine.kv_cache_gib=3"
    engine = "actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes"
    assert OmegaConf.select(grpo_config(tiny_recipe("grpo", cache)), engine) is None
    gpu = ("device=cuda", "policy.dtype=bfloat16", "trainer.gpus_per_node=1", "rollout.engine.loop_workers=2")
    on_gpu = tiny_recipe("grpo", cache, *gpu)
    config = grpo_config(on_gpu)
    assert OmegaConf.select(config, engine) == 3 << 30
    assert config.actor_rollout_ref.rollout.agent.num_workers == 2 * on_gpu.trainer.actor_processes
    given = build_cli_args_from_config({"kv_cache_memory_bytes": OmegaConf.select(config, engine)})
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(given)
    assert parsed.kv_cache_memory_bytes == 3 << 30


@pytest.mark.parametrize(("said", "name"), [("flash", "FLASH_ATTN"), ("sdpa", "TORCH_SDPA"), ("triton", "TRITON_ATTN")])
def test_attention_of_the_vision_tower_reaches_vllm(tiny_recipe: Callable[..., Recipe], said: str, name: str) -> None:
    """As vLLM's engine arguments and its multimodal configuration take it, for training and evaluation."""
    from verl.workers.rollout.vllm_rollout.utils import build_cli_args_from_config
    from vllm.config.multimodal import MultiModalConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    engine = "actor_rollout_ref.rollout.engine_kwargs.vllm.mm_encoder_attn_backend"
    assert OmegaConf.select(grpo_config(tiny_recipe("grpo")), engine) is None  # vLLM's own choice; verl drops it
    gpu = ("device=cuda", "policy.dtype=bfloat16", "trainer.gpus_per_node=1")
    config = grpo_config(tiny_recipe("grpo", *gpu, f"rollout.engine.vision_attention={said}"))
    given = build_cli_args_from_config({"mm_encoder_attn_backend": OmegaConf.select(config, engine)})
    parsed = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(given)
    assert EngineArgs.from_cli_args(parsed).mm_encoder_attn_backend == VISION_ATTENTION[said]
    taken = MultiModalConfig(mm_encoder_attn_backend=parsed.mm_encoder_attn_backend).mm_encoder_attn_backend
    assert taken is AttentionBackendEnum[name]


def test_settings_arrive(tiny_recipe: Callable[..., Recipe]) -> None:
    config = grpo_config(tiny_recipe("grpo", "policy.lora.dropout=0", *(override for override, _, _ in SETTINGS)))
    found = {key: OmegaConf.select(config, key) for _, key, _ in SETTINGS}
    assert found == {key: value for _, key, value in SETTINGS}
    assert config.actor_rollout_ref.model.lora.merge is True  # or vLLM would be sent adapters
    unlike = grpo_config(tiny_recipe("grpo"))
    assert [key for _, key, value in SETTINGS if OmegaConf.select(unlike, key) == value] == ["trainer.test_freq"]


def test_vllm_on_a_cpu(tiny_recipe: Callable[..., Recipe]) -> None:
    """One process for engine and model, and prompts in one piece, for seeded requests cannot be continued in parts."""
    gpu = ("device=cuda", "pool.gpus_per_worker=0", "trainer.gpus_per_node=1", "policy.dtype=bfloat16")
    on_cpu, on_gpu = (grpo_config(tiny_recipe("grpo", *o)).actor_rollout_ref.rollout for o in ((), gpu))
    assert on_cpu.engine_kwargs.vllm.distributed_executor_backend.endswith(".UniProcExecutor")
    assert on_gpu.engine_kwargs.vllm.distributed_executor_backend is None  # verl then chooses
    assert (on_cpu.enable_chunked_prefill, on_gpu.enable_chunked_prefill) == (False, True)


def test_vllm_prepares_for_no_video(tiny_recipe: Callable[..., Recipe]) -> None:
    """It renders the longest one twice before it serves. As verl hands it on: verl's own ``limit_images`` cannot."""
    from verl.workers.rollout.vllm_rollout.utils import build_cli_args_from_config

    recipe = tiny_recipe("grpo")
    rollout = grpo_config(recipe).actor_rollout_ref.rollout
    given = build_cli_args_from_config({"limit": rollout.engine_kwargs.vllm.limit_mm_per_prompt})[1]
    assert json.loads(given) == {"image": images_per_dialogue(recipe), "video": 0}
    assert rollout.get("limit_images") is None  # it would replace both


def test_adapters_without_dropout_in_reinforcement(tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"policy.lora.dropout: 0.05 with stage: grpo"):
        tiny_recipe("grpo", "policy.lora.rank=4")


def test_supervised_validation_needs_held_out_data_and_a_period(tiny_recipe: Callable[..., Recipe]) -> None:
    held_out = 'val=[{"dataset": "revos", "root": "x"}]'
    for overrides, files, every in (
        (("trainer.eval_every=0", held_out), None, -1),
        (("trainer.eval_every=5",), None, -1),
        (("trainer.eval_every=5", held_out), ["held_out"], 5),
    ):
        config = sft_config(tiny_recipe("sft", *overrides))
        assert (config.data.val_files, config.trainer.test_freq) == (files, every)


def test_a_running_ray_cluster_is_told_nothing_that_it_refuses(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_gpu_machine = ("device=cuda", "trainer.gpus_per_node=1", "pool.share_gpu=true", "policy.dtype=bfloat16")
    for more in ((), one_gpu_machine):
        recipe = tiny_recipe("grpo", *more)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        values = ray_values(recipe)
        assert "ray_kwargs.ray_init.num_cpus" in values
        assert values["ray_kwargs.ray_init.address"] == "local"  # whatever `ray start` left on the machine
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        assert ray_values(recipe) == {"ray_kwargs.ray_init.include_dashboard": False}


def test_hydra_is_left_as_it_was(tiny_recipe: Callable[..., Recipe]) -> None:
    from hydra.core.global_hydra import GlobalHydra

    sft_config(tiny_recipe("sft"))
    assert not GlobalHydra.instance().is_initialized()


def test_environments_get_the_recipes_dialogue(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe("grpo", "rollout.budgets.keyframe=20", "rollout.eval.budgets.keyframe=24", "seed=5")
    name, train = environment_of(recipe)
    _, held_out = environment_of(recipe, evaluation=True)
    assert name == "keyframe_exploration"
    assert (train["keyframe_budget"], held_out["keyframe_budget"]) == (20, 24)
    assert train["max_turns"] == 2 and train["frames_per_turn"] == 2 and train["prompts"] == "brief"
    assert conversation_limits(recipe) == {"max_tokens": 768, "max_prompt_tokens": 384, "max_response_tokens": 384}
    # The first message, of a clip of 5 frames all, and one more turn's.
    assert images_per_dialogue(recipe) == (4 + 1) + 2 + (2 + 1)
    assert (train["spare_frames"], held_out["spare_frames"]) == (1, 0)
    recipe.method = "veason_r1"
    name, boxes = environment_of(recipe)
    assert name == "single_turn_boxes" and boxes["sampling"] == "keyframe_congruent" and boxes["seed"] == 5
    assert environment_of(recipe, evaluation=True)[1]["sampling"] == "evenly_spaced"


def test_a_recipe_can_name_an_environment_of_the_users_own(
    tiny_recipe: Callable[..., Recipe], sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registering a class is all: the recipe's settings, rewards and masks follow what its replies hold."""

    class ShortExploration(KeyframeExploration):
        pass

    monkeypatch.setitem(rollout.environment._ENVIRONMENTS, "short_exploration", ShortExploration)
    recipe = tiny_recipe("grpo", "rollout.environment=short_exploration")
    name, settings = environment_of(recipe)
    assert (name, settings) == ("short_exploration", environment_of(tiny_recipe("grpo"))[1])
    assert type(make_environment(name, sample, settings, 32)) is ShortExploration
    assert type(recipe_scoring(recipe)) is type(recipe_scoring(tiny_recipe("grpo")))
    assert images_per_dialogue(recipe) > 0


def test_every_setting_is_read_somewhere() -> None:
    """A recipe key that no code outside the schema looks at would promise what does not happen."""
    read: set[str] = set()
    for path in [*(ROOT / "verl_ext").rglob("*.py"), *(ROOT / "eval").rglob("*.py")]:
        if "recipe" not in path.relative_to(ROOT).parts or path.name == "rollout_settings.py":  # which hands them on
            read |= {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}

    for path in (ROOT / "verl_ext").rglob("*.j2"):
        read |= set(re.findall(r"\bcluster\.(\w+)", path.read_text()))

    def leaves(node: Any) -> set[str]:
        out: set[str] = set()
        for f in fields(node):
            value = getattr(node, f.name)
            out |= leaves(value) if is_dataclass(value) else {f.name}
        return out

    from verl_ext.recipe import DataSource

    planned_only = {"gpus_per_node"}  # the planner's and the checks' business; verl reads Ray's resources
    assert leaves(Recipe()) | leaves(DataSource()) <= read | planned_only
