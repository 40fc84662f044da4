"""What ``benchmarks/scaling.py`` asks of whom, keeps when a machine goes, and how it is drawn."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import common, scaling
from benchmarks.device_watch import DeviceWatch
from benchmarks.scaling import Setup
from verl_ext.recipe import load_recipe

ARM = {
    "settings": ["policy.packing=group"],
    "steps": 3,
    "rollouts_per_step": 8,
    "tokens_per_step": 1000.0,
    "step_seconds": {"rollout": 1.0, "sync": 0.5, "sync_pool": 0.25, "step": 4.0},
    "update_mfu": 0.1,
    "peak_gib": 2.0,
    "idle_share": 0.5,
    "stop": {},
}


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(2, "cpu", "tiny", 3, tmp_path / "work", ("rollout.group_size=2",))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Children that write what the real ones would, and the commands that they were started with."""
    commands: list[list[str]] = []

    def run(command: Sequence[str], log: Path, seconds: float) -> str:
        commands.append([*command])
        written = dict(pairwise(command)).get("--json")
        if "benchmarks.grpo_step" in command:
            folder = Path(command[command.index("--work") + 1]) / "policy_tiny"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").write_bytes(bytes(1 << 20))
            common.write_json(str(written), {"date": "today", "versions": {}, "arms": {"group": ARM}})
        elif "benchmarks.pool_scaling" in command:
            common.write_json(str(written), {"date": "x", "workers": 2, "rollouts_per_second": 5.0})
        elif "prepare" not in command:
            common.write_json(command[4], {"done": 8, "expressions_per_second": 1.5, "seconds": 5.3})
        return ""

    monkeypatch.setattr(scaling, "run_limited", run)
    monkeypatch.setattr(scaling.eval_speed, "run_limited", run)
    monkeypatch.delenv("NCCL_NVLS_ENABLE", raising=False)
    yield commands
    os.environ.pop("NCCL_NVLS_ENABLE", None)


def args(*parts: str, modes: Sequence[str] = scaling.MODES, minutes: float = 9.0) -> argparse.Namespace:
    return argparse.Namespace(parts=[*parts], modes=[*modes], minutes=minutes)


def test_all_parts_in_one_call(setup: Setup, asked: list[list[str]], tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    found = scaling.measure(args(*scaling.PARTS, modes=["sync", "no_such_mode"]), setup, file)
    assert json.loads(file.read_text()) == {**json.loads(file.read_text()), **json.loads(json.dumps(found))}
    step = found["step"]["sync"]
    assert (step["rollouts_per_second"], step["tokens_per_second"], step["idle_share"]) == (2.0, 250.0, 0.5)
    assert found["step"]["no_such_mode"]["skipped"] == "trainer.mode has no no_such_mode here"
    assert found["eval"]["expressions_per_second"] == 1.5 and found["pool"]["rollouts_per_second"] == 5.0
    assert found["sync"]["sync"]["seconds"] == {"sync": 0.5, "sync_pool": 0.25}
    assert found["sync"]["sync"]["gib_per_second"] == round(round(1 / 1024, 3) / 0.5, 2)
    grpo, _, evaluated, pool = asked
    settings = [grpo[i + 1] for i, word in enumerate(grpo) if word == "--set"]
    assert settings == ["trainer.prompts_per_step=4", "trainer.actor_processes=2", "rollout.group_size=2"]
    assert "ours@2" in evaluated and pool[pool.index("--gpus") + 1] == "2"
    assert os.environ["NCCL_NVLS_ENABLE"] == "0", "multicast between GPUs stays off"
    assert "2.0 rollouts/s" in scaling.table(found)


def test_an_earlier_call_is_gone_on_with(
    setup: Setup, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scaling.json"
    scaling.measure(args("step", modes=["sync"]), setup, file)
    scaling.measure(args("pool"), setup, file)
    found = json.loads(file.read_text())
    assert found["step"]["sync"]["rollouts_per_second"] == 2.0 and found["pool"]["rollouts_per_second"] == 5.0
    monkeypatch.setattr(scaling, "run_limited", lambda *_: common.OUT_OF_TIME)
    found = scaling.measure(args("step", modes=["sync"]), setup, file)
    assert found["step"]["sync"]["rollouts_per_second"] == 2.0, "a failure replaces no figures"
    found = scaling.measure(args("step", "pool", modes=["sync"]), setup, tmp_path / "new.json")
    assert found["step"]["sync"]["error"] == found["pool"]["error"] == common.OUT_OF_TIME
    found = scaling.measure(args("step", modes=["sync"], minutes=0.1), setup, tmp_path / "late.json")
    assert found["step"]["sync"] == {"error": "no time left"}
    other = Setup(2, "cpu", "tiny", 4, setup.work, ())
    assert "pool" not in scaling.measure(args("step", modes=["sync"]), other, file), "other settings start anew"


def test_one_step_is_no_measurement(setup: Setup, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARM, "steps", 1)
    assert scaling.step(setup, "sync", 60.0) == {"error": "ended after 1 step"}
    monkeypatch.setitem(ARM, "steps", 2)
    assert scaling.step(setup, "sync", 60.0)["steps"] == 2


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("step",), [600.0]),  # nothing comes after it
        (("step", "pool"), [386.0, 600.0]),
        (("step", "eval", "pool"), [270.0, 350.0, 600.0]),
    ],
)
def test_what_comes_later_bounds_the_time_of_a_part(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], expected: list[float]
) -> None:
    given: list[float] = []

    def take(setup: Setup, *rest: Any) -> dict[str, str]:
        given.append(round(rest[-1]))
        return {"error": "none"}

    for part in ("step", "evaluation", "pool"):
        monkeypatch.setattr(scaling, part, take)
    scaling.measure(args(*parts, modes=["sync"], minutes=10.0), setup, tmp_path / "x.json")
    assert given == pytest.approx(expected, abs=2.0)


@pytest.mark.parametrize("gpus", [2, 3, 8])
@pytest.mark.parametrize("mode", scaling.MODES)
def test_every_mode_has_a_recipe_that_takes_all_processes(
    asked: list[list[str]], tmp_path: Path, mode: str, gpus: int
) -> None:
    setup = Setup(gpus, "cpu", "tiny", 3, tmp_path / "work", ())
    scaling.measure(args("step", modes=[mode]), setup, tmp_path / "scaling.json")
    (command,) = asked
    settings = [command[i + 1] for i, word in enumerate(command) if word == "--set"]
    trainer = load_recipe(scaling.ROOT / "recipes/quickstart/grpo.yaml", settings).trainer
    assert (trainer.mode, trainer.actor_processes + trainer.rollout_processes) == (mode, gpus)


def test_one_gpu_cannot_roll_out_elsewhere() -> None:
    assert scaling.why_not("sync", 1) == ""
    assert scaling.why_not("separate_async", 1) != ""


def test_a_setting_may_be_of_one_mode(setup: Setup) -> None:
    more = ["rollout.group_size=2", "separate_async:trainer.actor_processes=3", "output_dir=a:b"]
    assert scaling.in_mode(more, "sync") == ["rollout.group_size=2", "output_dir=a:b"]
    assert scaling.in_mode(more, "separate_async") == ["rollout.group_size=2", "trainer.actor_processes=3", more[2]]


def test_figures_of_a_cpu_are_no_result() -> None:
    assert scaling.default_file(2, "cuda", "NVIDIA H200") == scaling.ROOT / "benchmarks/results/scaling_2xh200.json"
    assert "results" not in str(scaling.default_file(2, "cpu", "x86_64"))


def test_a_command_ends_with_all_it_started(tmp_path: Path) -> None:
    import psutil

    code = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    code += "print(p.pid, flush=True); time.sleep(60)"
    log = tmp_path / "log"
    assert common.run_limited([sys.executable, "-c", code], log, 3.0) == common.OUT_OF_TIME
    assert not psutil.pid_exists(int(log.read_text()))
    assert common.run_limited([sys.executable, "-c", "raise SystemExit(3)"], log, 30.0) == "exit code 3"
    assert common.run_limited([sys.executable, "-c", "pass"], log, 30.0) == ""


def test_the_share_of_idle_is_of_what_came_after_the_mark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clock: Callable[[], float] = iter(range(100)).__next__
    monkeypatch.setattr("benchmarks.device_watch.time.monotonic", clock)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '100, 1024\\n100, 2048\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with DeviceWatch("cuda") as watch:
        watch._thread.join()
        before = watch.figures()
        watch.mark()
        assert watch.figures() == {}
        watch._samples += [(99.0, 0.25, 512.0), (99.0, 0.75, 3072.0)]
        after = watch.figures()
    assert before == {"idle_share": 0.0, "device_peak_gib": 2.0}
    assert after == {"idle_share": 0.5, "device_peak_gib": 3.0}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with DeviceWatch("cuda") as watch:
        assert watch.figures() == {}
    assert "not measured" in capfd.readouterr().err


def of(gpus: int, rate: float, device: str = "NVIDIA H200") -> dict[str, Any]:
    step = {"rollouts_per_second": rate, "step_seconds": {"rollout": 1.0, "step": 2.0}, "idle_share": 0.25}
    return {
        "benchmark": "scaling",
        "date": "2026-12-01T00:00:00",
        "device": device,
        "versions": {"torch": "2"},
        "settings": {"gpus": gpus},
        "step": {"sync": step, "separate_async": {"skipped": "needs two"}},
        "eval": {"expressions_per_second": 1.5 * gpus},
        "pool": {"error": "ran out of time"},
        "sync": {"sync": {"seconds": {"sync": 0.5}, "gib_per_second": 8.0}},
    }


def test_the_page_shows_the_files_that_there_are(
    performance: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    assert performance.pictures() == {} and "scaling on" not in performance.page()
    common.write_json(tmp_path / "scaling_1xh200.json", of(1, 6.0))
    assert performance.pictures() == {}, "one N is no curve"
    assert "| step, sync: rollouts/s (goal 0.85 N) | 6.00 |" in performance.page()
    common.write_json(tmp_path / "scaling_4xh200.json", of(4, 18.0))
    page = performance.page()
    assert "| step, sync: rollouts/s (goal 0.85 N) | 6.00 | 18.00 (0.75) |" in page
    assert "| eval: expressions/s (goal 0.9 N) | 1.50 | 6.00 (1.00) |" in page
    assert "| N | 1 | 4 |" in page and "pictures/scaling_h200.svg" in page and "pool:" not in page
    ((file, drawn),) = performance.pictures().items()
    svg = ElementTree.fromstring(drawn)
    circles = [e for e in svg.iter() if e.tag.endswith("circle")]
    assert file.name == "scaling_h200.svg" and len(circles) == 4
    at_four = [310 - 280 * speed / 4 for speed in (3.0, 4.0)]
    assert [float(c.attrib["cy"]) for c in circles if c.attrib["cx"] == "450.0"] == at_four
