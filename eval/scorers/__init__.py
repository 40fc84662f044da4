"""How a benchmark turns masks into the numbers of its table: one file a scorer under ``@register_scorer``.

May import `metrics`. `types` are the rows and groups of a score, `grouping` and `baselines` what tables add to
them.
"""

from eval.scorers.base import Case, Scorer
from eval.scorers.registry import get_scorer, register_scorer, scorer_names

__all__ = ["Case", "Scorer", "get_scorer", "register_scorer", "scorer_names"]
