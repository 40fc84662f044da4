"""``videoseg train`` as a user runs it, hurt and interrupted on the way, and what it left."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from verl_ext.run.supervise import LIVE_METRICS, METRICS, read_metrics, scalar

VIDEOSEG = str(Path(sys.executable).with_name("videoseg"))
SECONDS = 900


@dataclass
class Run:
    """A finished ``videoseg train``."""

    out: Path
    code: int
    said: str
    steps: dict[int, dict[str, Any]]
    """Metrics of all its training steps, as they were when it ended."""
    left: list[str]
    """Processes that it started and that were alive after it, in words."""
    segmenters: list[int]
    """Process ids of the pool's workers, in the order of their appearance."""

    @property
    def last(self) -> int:
        return max(self.steps)

    def metric(self, step: int, name: str) -> float:
        value = scalar(self.steps[step][name])
        assert value is not None
        return value


def check_on_policy(run: Run, steps: Sequence[int]) -> None:
    """The first step's ratio is 1 to the bit, it trains, and in all of ``steps`` vLLM agrees with the actor."""
    for name in ("actor/ppo_kl", "actor/pg_clipfrac", "actor/kl_loss"):
        assert run.metric(1, name) == 0.0
    for step in steps:
        assert run.metric(step, "training/rollout_probs_diff_max") < 1e-4
    assert run.metric(1, "actor/grad_norm") > 0


def check_verdicts(run: Run, step: int) -> None:
    """Every dialogue with a verification turn has one verdict, and both rewards of it are in their ranges."""
    verdicts = [run.metric(step, f"verdict/{v}") for v in ("confirmed", "corrected", "no_target", "unread")]
    assert sum(verdicts) == pytest.approx(1.0)
    assert -1.0 <= run.metric(step, "reward/verification_change") <= 1.0
    assert 0.0 <= run.metric(step, "reward/propagated_jf") <= 1.0


def press_ctrl_c(process: psutil.Popen) -> None:
    process.send_signal(signal.SIGINT)


def terminate_everybody(process: psutil.Popen) -> None:
    """As a scheduler does it, that then says it once more: Ray's daemons and vLLM's engine get TERM as well."""
    everybody = [process, *process.children(recursive=True)]
    for one in [*everybody, *everybody]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()


def train(
    out: Path,
    *arguments: str,
    kill_segmenter_after_step: int | None = None,
    interrupt_after_step: int | None = None,
    interrupt: Callable[[psutil.Popen], None] = press_ctrl_c,
) -> Run:
    """Run the command; once a step's metrics are there, kill the pool's worker, or interrupt the run."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    log = out.with_suffix(".said")
    segmenters: list[int] = []
    with log.open("w") as said:
        process = psutil.Popen([VIDEOSEG, "train", *arguments], stdout=said, stderr=said, env=env, cwd=out.parent)
        family: set[psutil.Process] = set()
        deadline = time.monotonic() + SECONDS
        killed = kill_segmenter_after_step is None
        interrupted = interrupt_after_step is None
        while process.poll() is None:
            family.update(process.children(recursive=True))
            segmenters += sorted({p.pid for p in family if is_segmenter(p)} - set(segmenters))
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
                pytest.fail(f"{arguments} took more than {SECONDS} s; it said:\n{log.read_text()[-3000:]}")
            done = [r["step"] for r in read_metrics(out / LIVE_METRICS)]
            if not killed and kill_segmenter_after_step in done:
                os.kill(segmenters[0], signal.SIGKILL)
                killed = True
            if not interrupted and interrupt_after_step in done:
                interrupt(process)
                interrupted = True
            time.sleep(0.3)
    _, alive = psutil.wait_procs([p for p in family if p.is_running()], timeout=20)
    rows = {r["step"]: r["data"] for r in read_metrics(out / METRICS)}
    steps = {n: data for n, data in rows.items() if n > 0}
    return Run(out, process.returncode, log.read_text(), steps, [in_words(p) for p in alive], segmenters)


def is_segmenter(process: psutil.Process) -> bool:
    """Ray names its workers after their class."""
    try:
        return any("ray::SegmenterWorker" in word for word in process.cmdline()[:1])
    except psutil.Error:
        return False


def in_words(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())[:100]}"
    except psutil.NoSuchProcess:
        return f"{process.pid} gone"
