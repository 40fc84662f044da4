"""Dialogues of a rollout that raised: verl (0.9.1) logs the error and goes on without them, so we keep count.

A malformed reply never raises. What does is an engine that died, a frame that cannot be read, a fault of ours.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from rollout.errors import WorkerError
from verl_ext.recipe.context import active_recipe
from verl_ext.run.run_files import FAILED_DIALOGUES

logger = logging.getLogger(__name__)

FAILED_SHARE = 0.25
"""More of a batch's dialogues than this, and the run ends: what is left is no batch of the recipe's."""

T = TypeVar("T")


def remembered(run: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Decorates an agent loop's ``run``: what it raises is written down before verl gets it."""

    @functools.wraps(run)
    async def wrapper(loop: Any, sampling_params: dict[str, Any], **row: Any) -> T:
        try:
            return await run(loop, sampling_params, **row)
        except Exception as e:
            _remember(row, e)
            raise

    return wrapper


def check_failed(
    out: Path, step: int, expected: int, found: int, what: str = "dialogues", since: int | None = None
) -> int:
    """How many of ``expected`` dialogues are missing. ``since``: the first step that they may have begun in, by which
    their errors are written down; None: ``step``.

    Raises:
        WorkerError: more than ``FAILED_SHARE`` of them; names step, count and the first error.
    """
    missing = expected - found
    if missing <= 0:
        return 0
    message = f"step {step}: {missing} of {expected} {what} failed; {_first_error(out, step, since)}"
    if missing > FAILED_SHARE * expected:
        raise WorkerError(f"{message}. See {out / 'train.log'}; once that is mended, --resume continues")
    logger.warning("%s", message)
    return missing


def _remember(row: dict[str, Any], error: Exception) -> None:
    sample = row.get("sample") or {}
    name = f"{sample.get('clip', {}).get('name')}/{sample.get('expression', {}).get('id')}"
    remember_failure(Path(active_recipe().output_dir), int(row.get("global_steps", -1)), name, error)


def remember_failure(out: Path, step: int, sample: str, error: Exception) -> None:
    """Write down what became of an expression's dialogue or masks, where `check_failed` and the user look for it."""
    words = f"{type(error).__name__}: {error}"[:2000]
    line = json.dumps({"step": step, "sample": sample, "error": words})
    with (out / FAILED_DIALOGUES).open("a", encoding="utf-8") as f:
        f.write(line + "\n")


def _first_error(out: Path, step: int, since: int | None) -> str:
    file = out / FAILED_DIALOGUES
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # several processes write
            continue
        if (step if since is None else since) <= row["step"] <= step:
            return f"the first: {row['sample']}: {row['error']}"
    return "their errors stand in the log"
