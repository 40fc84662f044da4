"""Which of a step's rollouts are kept, and their way to disk beside the training, not in it."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from verl_ext.recipe.training import KeepRolloutsRecipe
from verl_ext.rollout_log.files import write_step
from verl_ext.rollout_log.records import KeptGroup

logger = logging.getLogger(__name__)


class RolloutKeeper:
    """Chooses groups, and writes them in a thread of its own."""

    def __init__(
        self,
        run_dir: Path,
        settings: KeepRolloutsRecipe,
        publish: Callable[[int, Sequence[KeptGroup]], None] | None = None,
    ) -> None:
        """``publish``: what else is done with a kept step, in the same thread."""
        self._run_dir, self._settings, self._publish = run_dir, settings, publish
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._pending: Future[None] | None = None
        self.seconds = 0.0
        """That writing has taken in its thread so far."""

    def choose(self, step: int, prompts: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        """Of this step's prompts (name of the sample, id of its group) those whose groups are kept.

        By a hash of the name: two runs on the same data keep the same prompts, and a prompt that is kept once is kept
        whenever it comes again.
        """
        s = self._settings
        if s.every == 0 or step % s.every:
            return frozenset()
        ranked = sorted(set(prompts), key=lambda prompt: (zlib.crc32(prompt[0].encode()), prompt))
        return frozenset(ranked[: s.groups])

    def write(self, step: int, make: Callable[[], Sequence[KeptGroup]]) -> None:
        """Returns at once; what ``make`` gives is written meanwhile. A failure is logged: a run does not end for it."""
        self.wait()
        self._pending = self._thread.submit(self._write, step, make)

    def wait(self) -> None:
        """Until everything is on disk."""
        if self._pending is not None:
            self._pending.result()

    def _write(self, step: int, make: Callable[[], Sequence[KeptGroup]]) -> None:
        began = time.perf_counter()
        try:
            groups = make()
            write_step(self._run_dir, step, groups)
        except Exception:
            logger.exception("step %d: its rollouts could not be kept in %s; training goes on", step, self._run_dir)
        else:
            self._log(step, groups)
        self.seconds += time.perf_counter() - began

    def _log(self, step: int, groups: Sequence[KeptGroup]) -> None:
        every = self._settings.log_every
        if self._publish is None or every == 0 or step % every:
            return
        try:
            self._publish(step, groups)
        except Exception:
            logger.exception("step %d: its rollouts could not be logged; training goes on", step)
