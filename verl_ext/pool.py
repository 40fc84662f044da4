"""The segmenter pool of a recipe or of a policy folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.pool.pool import SegmenterPool
    from verl_ext.recipe import Recipe

SAM2_PREFIX = "grounding_encoder.sam2_model."


def sam2_state(folder: str | Path) -> dict[str, Any]:
    """SAM 2's own state dict out of a policy folder's head."""
    from verl_ext.policy.checkpoint import load_head_state

    return {n[len(SAM2_PREFIX) :]: t for n, t in load_head_state(folder).items() if n.startswith(SAM2_PREFIX)}


def pool_of_policy(
    folder: str | Path, *, workers: int, cpus: float = 1.0, gpus: float = 0.0, cache_frames: int = 256
) -> SegmenterPool:
    """Actors that hold the policy's own SAM 2."""
    from rewards.pool.pool import SegmenterPool
    from verl_ext.policy.checkpoint import load_head_config

    return SegmenterPool(
        load_head_config(folder),
        sam2_state(folder),
        num_workers=workers,
        num_cpus=cpus,
        num_gpus=gpus,
        max_resident_frames=cache_frames,
    )


def build_pool(recipe: Recipe) -> SegmenterPool:
    """The recipe's pool: the policy's own SAM 2, or ``pool.checkpoint`` with the architecture ``pool.preset``."""
    from rewards.pool.pool import SegmenterPool
    from rewards.segmenter import SegmenterConfig

    p = recipe.pool
    gpus = p.gpus_per_worker if recipe.device == "cuda" else 0.0
    if p.checkpoint is None:
        return pool_of_policy(
            recipe.policy.path, workers=p.workers, cpus=p.cpus_per_worker, gpus=gpus, cache_frames=p.cache_frames
        )
    return SegmenterPool(
        SegmenterConfig(preset=p.preset),
        Path(p.checkpoint),
        num_workers=p.workers,
        num_cpus=p.cpus_per_worker,
        num_gpus=gpus,
        max_resident_frames=p.cache_frames,
    )
