"""Imported by the server from which scoring processes are forked: loads the compiled kernels, once for all of them."""

from __future__ import annotations

import eval.score_clip  # noqa: F401
from eval.metrics import score_clip

_DOT = {"size": [3, 3], "counts": "423"}
_LINE = {"size": [3, 3], "counts": "315"}
score_clip([_DOT], [_LINE])
