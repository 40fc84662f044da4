"""What evaluation needs of a policy's home: to load it, to have its masks drawn, to start its engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rewards.scoring import Scoring


class PoolSettings(Protocol):
    """What of `eval.inference.dialogue.InferenceSettings` a pool depends on."""

    @property
    def sam2_preset(self) -> str: ...

    @property
    def sam2_checkpoint(self) -> str | None: ...

    @property
    def pool_cpus(self) -> float: ...

    @property
    def cache_frames(self) -> int: ...

    @property
    def compile_segmenter(self) -> bool: ...


class PolicyBackend(Protocol):
    """Travels to the policy workers, so it is picklable and cheap to import."""

    @property
    def worker_extension(self) -> str:
        """Dotted name of what is mixed into vLLM's worker class; answers ``load_folder`` and ``die_with_parent``."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that a CPU's policy workers need beside `eval.inference.worker.cpu_environment`."""
        ...

    def load_policy(self, folder: str, dtype: str, device: str) -> Any:
        """The policy whose forward makes ``[SEG]`` states; None for one without a segmentation head."""
        ...

    def decoder_weights(self, folder: Path) -> dict[str, Any]:
        """Prompt encoder and mask decoder for a running pool; empty for a policy without a head."""
        ...

    def start_pool(self, folder: Path, settings: PoolSettings, workers: int, gpus: float) -> Any:
        """A `rewards.pool.pool.SegmenterPool` with the policy's SAM 2, or that of the settings.

        Raises:
            RecipeError: the policy has none of its own and the settings name none.
        """
        ...

    def scoring(self, environment: str, settings: Mapping[str, Any]) -> Scoring:
        """Says which masks to ask the pool for after a dialogue in ``environment``."""
        ...
