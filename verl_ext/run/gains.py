"""What was gained over the same prompts, as a number with its error and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def paired_gain(before: dict[str, float], after: dict[str, float], name: str) -> dict[str, float | None]:
    """Mean of ``name`` gained over the same held-out prompts, and the standard error of that mean.

    One prompt alone has a gain and no error (None).
    """
    gains = np.array([after[key] - before[key] for key in before if key in after])
    error = round(float(gains.std(ddof=1) / np.sqrt(len(gains))), 4) if len(gains) > 1 else None
    return {f"{name}_gain": round(float(gains.mean()), 4), f"{name}_gain_se": error}


def gain_in_words(figures: Mapping[str, Any], name: str, digits: int = 1) -> str:
    """``+1.2 ± 0.4`` of a ``paired_gain``; without its error where it has none."""
    gain, error = figures[f"{name}_gain"], figures[f"{name}_gain_se"]
    return f"{gain:+.{digits}f}" if error is None else f"{gain:+.{digits}f} ± {error:.{digits}f}"
