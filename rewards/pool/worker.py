"""What runs inside one Ray actor of the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.segmenter.config import SegmenterConfig
from rewards.segmenter.types import Request


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker is built from, so that a killed one can be built again."""

    config: SegmenterConfig
    weights: Path | None
    """A file with the segmenter's weights that every node can read; None keeps the seeded random ones."""
    device: str
    threads: int
    max_resident_frames: int
    max_batch: int
    compile_segmenter: bool


class SegmenterWorker:
    """A segmenter and its feature cache on one device. torch is imported here, not where the pool is used."""

    def __init__(
        self, settings: WorkerSettings, weights: Mapping[str, Any] | None, decoder: Mapping[str, Any] | None
    ) -> None:
        import torch

        from rewards.segmenter import RequestScorer, Segmenter
        from rewards.segmenter.families import load_weights

        torch.set_num_threads(settings.threads)
        segmenter = Segmenter(settings.config)
        if settings.weights is not None:
            load_weights(settings.config.family, segmenter.model, settings.weights)
        if weights is not None:
            segmenter.model.load_state_dict(weights)
        segmenter.to(settings.device).eval().requires_grad_(False).round_weights()
        if settings.compile_segmenter and settings.device != "cpu":
            segmenter.compile_parts()
        self._scorer = RequestScorer(
            segmenter, max_resident_frames=settings.max_resident_frames, max_batch=settings.max_batch
        )
        if decoder is not None:
            self._scorer.load_decoder(dict(decoder))

    def ready(self) -> bool:
        """Returns once the segmenter is built."""
        return True

    def score(self, requests: Sequence[Request]) -> list[Any]:
        """Scores, or the `DataError` of a request, in order."""
        return list(self._scorer.score(requests))

    def load_decoder(self, weights: Mapping[str, Any]) -> None:
        self._scorer.load_decoder(dict(weights))

    def encoded_frames(self) -> int:
        """How many frames this worker's image encoder has seen."""
        return self._scorer.cache.encoded_frames
