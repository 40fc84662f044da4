"""Losses and gradients that are no numbers: said at the step, counted, and borne by every report.

verl's FSDP engine leaves an update out whose gradient is not finite, and goes on: nothing is learnt, in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from verl_ext.run.run_files import scalar

SKIPPED = ("actor/skipped_updates", "skipped_updates")
"""Updates of a step that were left out, as reinforcement and supervised training log them."""
GRADIENTS = ("actor/grad_norm", "train/grad_norm")
LOSSES = ("actor/loss", "actor/pg_loss", "actor/kl_loss", "train/loss", "lm", "mask_ce", "dice", "val/loss")
PREFIXES = ("actor/aux/", "reward/")
REMEDY = (
    "lower the learning rate, or look for the first such step's cause in the data; --resume goes back to a checkpoint"
)


def skipped_updates(metrics: Mapping[str, Any]) -> int:
    """How many updates of one step were left out; at least one where the gradient's norm is no number."""
    counted = (scalar(metrics.get(name)) for name in SKIPPED)
    found = int(sum(value for value in counted if value is not None))
    return max(found, int(any(name in GRADIENTS for name in not_finite(metrics))))


def not_finite(metrics: Mapping[str, Any]) -> list[str]:
    """Names of one step's losses, rewards and gradient norms that are NaN or infinite."""
    watched = (n for n in metrics if n in GRADIENTS or n in LOSSES or n.startswith(PREFIXES))
    return [name for name in watched if (value := scalar(metrics[name])) is not None and not math.isfinite(value)]


def step_in_words(step: int, metrics: Mapping[str, Any]) -> str | None:
    """What to say of a step at once; None if all its numbers are finite."""
    names, skipped = not_finite(metrics), skipped_updates(metrics)
    if not names and not skipped:
        return None
    found = f"step {step}: not finite: {', '.join(names) or 'a gradient'}"
    return f"{found}; {_updates(skipped)} skipped, nothing was learnt from it" if skipped else found


def run_in_words(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The same of a whole run; None if all its numbers are finite.

    rows: ``{"step", "data"}`` as :func:`verl_ext.run.run_files.read_metrics` gives them.
    """
    steps = [row for row in rows if row["step"] > 0]
    bad = [row for row in steps if not_finite(row["data"]) or skipped_updates(row["data"])]
    if not bad:
        return None
    names = dict.fromkeys(name for row in bad for name in not_finite(row["data"]))
    skipped = sum(skipped_updates(row["data"]) for row in bad)
    return (
        f"{len(bad)} of {len(steps)} steps have losses, rewards or gradients that are not finite "
        f"({', '.join(names) or 'gradients'}; the first is step {bad[0]['step']}). {_updates(skipped)} skipped for it, "
        f"in which nothing was learnt: {REMEDY}."
    )


def _updates(count: int) -> str:
    return f"{count} update was" if count == 1 else f"{count} updates were"
