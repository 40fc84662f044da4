"""The quickstart's stages in the world where exploring pays: sizes for one GPU, and toy sizes for two CPU cores."""

from __future__ import annotations

from typing import Any

from verl_ext.quickstart.settings import QuickstartSettings

RECIPES = (
    ("segmentation.yaml", "exploring/reading.yaml"),
    ("cold_start.yaml", "exploring/cold_start.yaml"),
    ("grpo.yaml", "exploring/grpo.yaml"),
)
TEACHER: dict[str, Any] = {"middle_habit": 0.5, "wrong_interval": 0.15, "noise": 0.1}
"""Half of the traces a keyframe at the middle of half the clip, 15 % a wrong interval, 10 % a wrong name."""
GPU_POLICY: dict[str, Any] = {
    "hidden": 512,
    "layers": 8,
    "head_dim": 64,
    "vision_hidden": 256,
    "vision_layers": 4,
    "vision_head_dim": 64,
    "vision_positions": 256,
}
"""26 M parameters in the language and vision model."""
CPU_POLICY: dict[str, Any] = {
    "hidden": 128,
    "layers": 3,
    "vision_hidden": 96,
    "vision_layers": 2,
    "vision_positions": 256,
}
CPU_RL_STEPS = 20
"""Of the quickstart; the study takes twice as many."""
ON_CPU = (
    "device=cpu",
    "policy.dtype=float32",
    "rollout.engine.enforce_eager=true",
    "rollout.engine.kv_cache_gib=1",
    "pool.share_gpu=false",
    "trainer.gpus_per_node=0",
    "trainer.loader_workers=1",
)
CPU_SIDE = 128
CPU_FRAMES = (  # of frames of 128: 64, 64 and all 128 pixels
    "rollout.frames_per_turn=3",
    "rollout.budgets={low_res: 6, spatial: 6, keyframe: 21}",
    "rollout.eval={budgets: {low_res: 6, spatial: 6, keyframe: 21}}",
    "rollout.engine.max_num_seqs=64",
    "rollout.engine.max_num_batched_tokens=4096",
)


def exploring_settings(device: str = "cpu", rl_steps: int | None = None) -> QuickstartSettings:
    """What ``videoseg quickstart --world badges`` runs; on two CPU cores a cold start of nine minutes, then five of
    reinforcement."""
    shared: dict[str, Any] = {
        "world": "badges",
        "recipes": RECIPES,
        "kinds": {"mark": 4.0},
        "taught_kinds": ("mark",),
        "traces": TEACHER,
        "device": device,
        "rl_steps": rl_steps,
    }
    if device == "cuda":
        return QuickstartSettings(
            clips={"train": 1000, "valid": 16, "test": 160},
            frames=(64, 64),
            policy=GPU_POLICY,
            warm_up_steps=300,
            reading={"steps": 400, "batch": 64},
            dialogues={"steps": 1000, "batch": 48, "lr": 5e-4, "enough": 0.0},
            reading_frames=2,
            dialogues_shown=3000,
            test_samples=640,
            **shared,
        )
    small, steps = (*ON_CPU, *CPU_FRAMES), rl_steps or CPU_RL_STEPS
    return QuickstartSettings(
        clips={"train": 1200, "valid": 12, "test": 48},
        frames=(48, 48),
        size=CPU_SIDE,
        policy=CPU_POLICY,
        warm_up_steps=300,
        reading={"steps": 300, "batch": 24},
        dialogues={"steps": 840, "batch": 16, "enough": 0.0},
        reading_frames=1,
        dialogues_shown=2400,
        test_samples=192,
        segmentation=(
            *small,
            "rollout.initial_low_res=0",
            "rollout.budgets.spatial=21",
            "trainer.steps=20",
            "trainer.prompts_per_step=16",
            "trainer.micro_batch=8",
            "optim.lr=6e-4",
        ),
        cold_start=(
            *small,
            "trainer.steps=40",
            "trainer.prompts_per_step=16",
            "trainer.micro_batch=8",
            "optim.lr=1.0e-4",
        ),
        grpo=(
            *small,
            "rollout.group_size=8",
            "optim.lr=1.5e-4",
            f"trainer.steps={steps}",
            "trainer.prompts_per_step=16",
            "trainer.micro_batch=16",
            "trainer.save_every=10",
            f"trainer.eval_every={steps}",
            "trainer.eval_samples=24",
        ),
        **shared,
    )
