"""The quickstart's stages in the world of like pairs: sizes for one GPU, and toy sizes for two CPU cores."""

from __future__ import annotations

from typing import Any

from verl_ext.quickstart.exploring import ON_CPU
from verl_ext.quickstart.settings import QuickstartSettings

RECIPES = (
    ("segmentation.yaml", "twins/segmentation.yaml"),
    ("cold_start.yaml", "twins/cold_start.yaml"),
    ("grpo.yaml", "twins/grpo.yaml"),
)
TEACHER: dict[str, Any] = {"wrong_twin": 0.6, "describe_target": False}
"""In 60 % of the traces on a right disc the masks are those of the left one; the text is always right."""
GPU_POLICY: dict[str, Any] = {
    "hidden": 256,
    "layers": 4,
    "head_dim": 64,
    "vision_hidden": 128,
    "vision_layers": 2,
    "vision_head_dim": 64,
}
CPU_RL_STEPS = 40
CPU_STEPS = ("trainer.prompts_per_step=16", "trainer.micro_batch=8")


def twin_settings(device: str = "cpu", rl_steps: int | None = None) -> QuickstartSettings:
    """What ``videoseg quickstart --world twins`` runs."""
    shared: dict[str, Any] = {
        "world": "twins",
        "recipes": RECIPES,
        "frames": (32, 32),
        "kinds": {"twin": 4.0},
        "taught_kinds": ("twin",),
        "traces": TEACHER,
        "device": device,
        "rl_steps": rl_steps,
    }
    if device == "cuda":
        return QuickstartSettings(
            clips={"train": 800, "valid": 16, "test": 80},
            policy=GPU_POLICY,
            warm_up_steps=300,
            test_samples=320,
            **shared,
        )
    small = (*ON_CPU, "rollout.engine.max_num_seqs=64", "rollout.engine.max_num_batched_tokens=4096")
    steps = rl_steps or CPU_RL_STEPS
    return QuickstartSettings(
        clips={"train": 160, "valid": 12, "test": 24},
        warm_up_steps=200,
        test_samples=96,
        segmentation=(*small, *CPU_STEPS, "trainer.steps=150", "optim.lr=2e-3"),
        cold_start=(*small, *CPU_STEPS, "trainer.steps=300", "optim.lr=1e-3"),
        grpo=(
            *small,
            *CPU_STEPS,
            "rollout.group_size=4",
            f"trainer.steps={steps}",
            "trainer.micro_batch=16",
            "trainer.save_every=10",
            f"trainer.eval_every={steps}",
            "trainer.eval_samples=24",
        ),
        **shared,
    )
