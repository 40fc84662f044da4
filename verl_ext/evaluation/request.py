"""What ``videoseg eval`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from verl_ext.evaluation.targets import Target


@dataclass(frozen=True)
class Request:
    """The options, as the command line names them."""

    policy: Path
    targets: tuple[Target, ...]
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str | None = None
    gpus: int = 1
    max_samples: int | None = None
    strict: bool = False
    """An annotation that is odd or cannot be used keeps its target from being started and scored."""
    images: str | None = None
    """A way of ``rollout.spoilt.WAYS`` to spoil what the policy is shown; None shows it the clips."""
