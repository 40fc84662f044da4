"""The segmenter pool of a recipe or of a policy folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import RecipeError

if TYPE_CHECKING:
    from rewards.pool.pool import SegmenterPool
    from verl_ext.recipe import Recipe

PREFIX = "grounding_encoder."


def segmenter_state(folder: str | Path) -> dict[str, Any]:
    """The segmenter's own state dict (SAM 2's or SAM 3's names) out of a policy folder's head."""
    from verl_ext.policy.checkpoint import load_head_state

    head = load_head_state(folder)
    return {n.removeprefix(PREFIX).split(".", 1)[1]: t for n, t in head.items() if n.startswith(PREFIX)}


def pool_of_policy(
    folder: str | Path,
    *,
    workers: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
    cache_frames: int = 256,
    preset: str = "sam2.1_hiera_l",
    checkpoint: str | Path | None = None,
    device: str | None = None,
    compile_segmenter: bool = False,
) -> SegmenterPool:
    """Actors that hold the policy's own SAM 2, or the one in ``checkpoint`` with the architecture ``preset``.

    Raises:
        RecipeError: neither is there.
    """
    from rewards.pool.pool import SegmenterPool
    from rewards.segmenter import SegmenterConfig
    from verl_ext.policy.checkpoint import has_head, load_head_config

    weights: Any
    if checkpoint is not None:
        config, weights = SegmenterConfig(preset=preset), Path(checkpoint)
    elif has_head(folder):
        config, weights = load_head_config(folder), segmenter_state(folder)
    else:
        raise RecipeError(
            f"pool.checkpoint: null, but {folder} has no SAM 2 of its own (a box policy); name SAM 2 weights of "
            f"preset {preset}"
        )
    return SegmenterPool(
        config,
        weights,
        num_workers=workers,
        num_cpus=cpus,
        num_gpus=gpus,
        device=device,
        max_resident_frames=cache_frames,
        compile_segmenter=compile_segmenter,
    )


def build_pool(recipe: Recipe) -> SegmenterPool | None:
    """The recipe's pool; None for a box policy whose recipe names no SAM 2, because its rewards can do without."""
    from verl_ext.policy.checkpoint import has_head

    p = recipe.pool
    if p.checkpoint is None and recipe.method == "veason_r1" and not has_head(recipe.policy.path):
        return None
    return pool_of_policy(
        recipe.policy.path,
        workers=p.workers,
        cpus=p.cpus_per_worker,
        gpus=p.gpus_per_worker if recipe.device == "cuda" else 0.0,
        cache_frames=p.cache_frames,
        preset=p.preset,
        checkpoint=p.checkpoint,
        device="cuda" if p.share_gpu and recipe.device == "cuda" else None,
        compile_segmenter=p.compile,
    )
