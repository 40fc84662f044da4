"""One real run through the command line: supervised, then reinforced, hurt, interrupted and continued.

Ray, vLLM, FSDP and the segmenter pool start twice, so everything is asserted on two runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from verl_ext.cli.group import EXIT_INTERRUPTED
from verl_ext.policy.checkpoint import HEAD_FOLDER, load_policy
from verl_ext.run.supervise import LIVE_METRICS, METRICS, STOP_FILE, read_metrics, scalar

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
VIDEOSEG = str(Path(sys.executable).with_name("videoseg"))
SFT = ("trainer.steps=30", "trainer.prompts_per_step=4", "trainer.micro_batch=4", "optim.lr=3e-3")
GRPO = (
    "trainer.prompts_per_step=2",
    "rollout.group_size=2",
    "trainer.micro_batch=2",
    "optim.lr=1e-4",
    "trainer.eval_every=100",  # before training, then never again
    "trainer.eval_samples=2",
)
SECONDS = 420


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


def press_ctrl_c(process: psutil.Popen) -> None:
    process.send_signal(signal.SIGINT)


def terminate_everybody(process: psutil.Popen) -> None:
    """As a scheduler does it, that then says it once more: Ray's daemons and vLLM's engine get TERM as well."""
    for _ in range(2):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        time.sleep(0.5)


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def cold_start(folder: Path, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]) -> Run:
    out = folder / "cold_start"
    return train(out, str(tiny_recipe_file), *tiny_settings("sft"), f"output_dir={out}", *SFT)


@pytest.fixture(scope="module")
def command(
    folder: Path, cold_start: Run, tiny_recipe_file: Path, tiny_settings: Callable[[str], list[str]]
) -> tuple[str, ...]:
    places = [f"policy.path={cold_start.out / 'policy'}", f"output_dir={folder / 'grpo'}"]
    return (str(tiny_recipe_file), *tiny_settings("grpo"), *places, *GRPO)


@pytest.fixture(scope="module")
def interrupted(folder: Path, command: tuple[str, ...]) -> Run:
    more = ("trainer.steps=50", "trainer.save_every=1", "trainer.keep_checkpoints=1")
    hurt = {"kill_segmenter_after_step": 1, "interrupt_after_step": 3, "interrupt": terminate_everybody}
    return train(folder / "grpo", *command, *more, **hurt)


@pytest.fixture(scope="module")
def continued(folder: Path, command: tuple[str, ...], interrupted: Run) -> Run:
    return train(folder / "grpo", *command, f"trainer.steps={interrupted.last + 1}", "--resume")


def test_supervised_training_writes_a_policy_that_differs(cold_start: Run, tiny_policy: Path) -> None:
    assert cold_start.code == 0, cold_start.said[-3000:]
    assert sorted(cold_start.steps) == list(range(1, 31))
    assert cold_start.metric(30, "train/loss") < cold_start.metric(1, "train/loss")
    assert str(cold_start.out / "policy") in cold_start.said.replace("\n", "")
    before, after = load_policy(tiny_policy).state_dict(), load_policy(cold_start.out / "policy").state_dict()
    assert before.keys() == after.keys()
    assert not before["lm_head.weight"].equal(after["lm_head.weight"])
    assert cold_start.left == []


def test_the_first_step_is_exactly_on_policy(interrupted: Run) -> None:
    """Old and new log-probs, mask terms included, are the same numbers; actor and reference are the same model."""
    assert interrupted.metric(1, "actor/ppo_kl") == 0.0
    assert interrupted.metric(1, "actor/pg_clipfrac") == 0.0
    assert interrupted.metric(1, "actor/kl_loss") == 0.0
    assert interrupted.metric(2, "actor/kl_loss") != 0.0


def test_vllm_and_actor_agree_also_after_a_weight_sync(interrupted: Run) -> None:
    for step in (1, 2):
        assert interrupted.metric(step, "training/rollout_probs_diff_max") < 1e-4


def test_masks_were_decoded_and_every_reward_is_logged(interrupted: Run) -> None:
    assert sum(interrupted.metric(s, "actor/seg/tokens") for s in interrupted.steps) > 0
    for name in ("mean", "strict_format", "mask_iou", "keyframe_hit"):
        assert f"reward/{name}" in interrupted.steps[1]
    stops = [v for k, v in interrupted.steps[1].items() if k.startswith("stop/")]
    assert sum(scalar(v) or 0.0 for v in stops) == pytest.approx(1.0)


def test_a_killed_pool_worker_is_replaced_and_its_work_done_again(interrupted: Run) -> None:
    assert len(interrupted.segmenters) == 2, interrupted.segmenters
    assert interrupted.metric(1, "pool/restarts") == 0.0
    assert interrupted.metric(3, "pool/restarts") == 1.0
    for step in interrupted.steps:
        assert interrupted.metric(step, "rollout/failed") == 0.0
        assert -10.0 < interrupted.metric(step, "reward/mean") < 10.0


def test_progress_is_told_in_lines(cold_start: Run, interrupted: Run) -> None:
    assert "step 30/30 | loss" in cold_start.said and "starting processes" in cold_start.said
    assert "/50 | reward" in interrupted.said and "saving and stopping after this step" in interrupted.said


def test_held_out_clips_are_evaluated_before_training(interrupted: Run) -> None:
    rows = [json.loads(line) for line in (interrupted.out / "held_out.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0
    assert 0.0 <= rows[0]["val/jf"] <= 100.0 and "val/reward/mean" in rows[0]


@pytest.mark.parametrize("interrupt", [press_ctrl_c, terminate_everybody])
def test_a_supervised_run_that_is_asked_to_stop_saves_its_step(
    folder: Path,
    tiny_recipe_file: Path,
    tiny_settings: Callable[[str], list[str]],
    interrupt: Callable[[psutil.Popen], None],
) -> None:
    out = folder / interrupt.__name__
    places = (str(tiny_recipe_file), *tiny_settings("sft"), f"output_dir={out}", *SFT, "trainer.steps=400")
    asked = train(out, *places, interrupt_after_step=2, interrupt=interrupt)
    assert asked.code == EXIT_INTERRUPTED, asked.said[-3000:]
    assert asked.left == [] and 2 <= asked.last < 400
    assert (out / "policy").resolve() == out / "checkpoints" / f"global_step_{asked.last}" / "policy"


def test_term_to_every_process_leaves_a_checkpoint_and_none_of_them(interrupted: Run) -> None:
    assert interrupted.code == EXIT_INTERRUPTED, interrupted.said[-3000:]
    assert "--resume" in interrupted.said
    assert interrupted.left == []
    assert sorted(interrupted.steps) == list(range(1, interrupted.last + 1)) and 3 <= interrupted.last <= 6
    checkpoint = interrupted.out / "checkpoints" / f"global_step_{interrupted.last}"
    assert (checkpoint / "policy" / HEAD_FOLDER / "model.safetensors").is_file()
    assert (checkpoint / "actor").is_dir()
    assert not (interrupted.out / STOP_FILE).exists()
    assert [p.name for p in (interrupted.out / "checkpoints").glob("global_step_*")] == [checkpoint.name]
    assert (interrupted.out / "policy").resolve() == checkpoint / "policy"


def test_resume_goes_on_where_it_stopped(interrupted: Run, continued: Run) -> None:
    assert continued.code == 0, continued.said[-3000:]
    assert continued.last == interrupted.last + 1
    assert all(continued.steps[n] == interrupted.steps[n] for n in interrupted.steps)  # none was done again
    old, new = (continued.out / "checkpoints" / f"global_step_{r.last}" / "policy" for r in (interrupted, continued))
    assert str(new) in continued.said.replace("\n", "") and (continued.out / "policy").resolve() == new
    before, after = load_policy(old).state_dict(), load_policy(new).state_dict()
    assert not before["lm_head.weight"].equal(after["lm_head.weight"])
    assert continued.left == []


def test_a_run_is_not_overwritten_without_being_asked(command: tuple[str, ...], continued: Run) -> None:
    again = subprocess.run([VIDEOSEG, "train", *command], capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "--resume" in again.stderr and str(continued.out) in again.stderr.replace("\n", "")
