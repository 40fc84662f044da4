"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.results.record import ResultRecord
from eval.scorers.types import Scores
from rollout.types import Sample


@dataclass(frozen=True)
class ReportStage:
    """One point of training at which the held-out clips were evaluated."""

    name: str
    """Short key, such as ``cold_start``."""
    title: str
    """What the page calls it."""
    scores: Scores
    records: Sequence[ResultRecord] = ()
    samples: Sequence[Sample] = ()
    """With ground truth; clips are drawn only for expressions whose sample and record are both given."""


@dataclass(frozen=True)
class ReportInput:
    """A whole run. Every part may be empty: what is not there is said to be missing, never invented."""

    title: str
    summary: Mapping[str, Any]
    """As ``summary.json``: jf_untrained, jf_cold_start, jf_rl, reward_first, reward_last, seconds, peak_memory_gib,
    step_seconds by phase."""
    stages: Sequence[ReportStage]
    """In the order of training; the last is the model that the run delivers."""
    rl_metrics: Sequence[Mapping[str, float]] = ()
    """One mapping a step: ``step``, ``reward/mean``, ``reward/<name>``, ``stop/<reason>``, ``kl``, ``loss/<name>``,
    ``seconds/<phase>``."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Baseline -> J&F; default: those that the last stage was scored beside."""
    learnt_at: float = 70.0
    """Least J&F at which a kind may be called learnt."""
    notes: Sequence[str] = ()
    """Paragraphs of plain text for the top of the page."""
    warnings: Sequence[str] = ()
    """Paragraphs that a reader must not miss, above all others."""
