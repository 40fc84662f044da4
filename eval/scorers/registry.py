"""Scorers by name: benchmarks say ``scorer: <name>``."""

from __future__ import annotations

from eval.registry import Registry
from eval.scorers.base import Scorer

_SCORERS: Registry[Scorer] = Registry("scorer", "eval.scorers")
register_scorer, scorer_names, get_scorer = _SCORERS.register, _SCORERS.names, _SCORERS.get
