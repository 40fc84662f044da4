"""The project's own policies as evaluation takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.inference.backend import PoolSettings
    from rewards.scoring import Scoring


@dataclass(frozen=True)
class Backend:
    """See `eval.inference.backend.PolicyBackend`."""

    worker_extension: str = "verl_ext.inference.vllm_worker.WorkerExtension"
    environment: Mapping[str, str] = field(default_factory=lambda: {"VERL_USE_EXTERNAL_MODULES": "verl_ext.plugin"})

    def load_policy(self, folder: str, dtype: str, device: str) -> Any:
        import torch

        from verl_ext.policy.checkpoint import has_head, load_policy

        return load_policy(folder, getattr(torch, dtype), device) if has_head(folder) else None

    def decoder_weights(self, folder: Path) -> dict[str, Any]:
        from verl_ext.policy.checkpoint import has_head, load_head_state
        from verl_ext.policy.head import decoder_items

        return dict(decoder_items(iter(load_head_state(folder).items()))) if has_head(folder) else {}

    def start_pool(self, folder: Path, settings: PoolSettings, workers: int, gpus: float) -> Any:
        from verl_ext.scoring.pool import pool_of_policy

        return pool_of_policy(
            folder,
            workers=workers,
            cpus=settings.pool_cpus,
            gpus=gpus,
            cache_frames=settings.cache_frames,
            preset=settings.sam2_preset,
            checkpoint=settings.sam2_checkpoint,
            compile_segmenter=settings.compile_segmenter,
        )

    def scoring(self, environment: str, settings: Mapping[str, Any]) -> Scoring:
        from verl_ext.scoring.rollouts import scoring_of

        return scoring_of(environment, settings, {})
