"""TERM to every process of a run asks it to stop; twice at once is once; a later one, or an orphan, ends at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from verl_ext.run.process import EXIT_TERMINATED, RUN_DIR_ENV, TOGETHER, Wish

ROOT = Path(__file__).parents[3]
TOY = """
import multiprocessing, os, pathlib, subprocess, sys, time
out = pathlib.Path(os.environ["VIDEOSEG_RUN_DIR"])
rank = os.environ.get("RANK", "0")

def main():
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    loader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    loader.start()
    (out / f"running{rank}").write_text("yes")
    while not (out / "STOP").exists() or "deaf" in sys.argv:
        time.sleep(0.02)
    time.sleep(0.5)  # the step under way
    assert helper.poll() is None and loader.is_alive(), "a helper was ended"
    helper.kill()
    (out / f"saved{rank}").write_text(" ".join(sys.argv[1:]))

if __name__ == "__main__":
    main()
"""
Start = Callable[..., psutil.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(command)`` in an environment in which the toy is a module; whatever is left is killed."""
    (tmp_path / "toy.py").write_text(TOY)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths, RUN_DIR_ENV: str(tmp_path)}
    started: list[psutil.Popen] = []

    def run(*command: str) -> psutil.Popen:
        started.append(psutil.Popen([sys.executable, *command], env=env, cwd=tmp_path))
        return started[-1]

    yield run
    for process in started:
        for one in family(process):
            one.kill()


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)] if process.is_running() else []


def terminate(processes: list[psutil.Process]) -> None:
    for one in processes:
        one.send_signal(signal.SIGTERM)


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def gone(processes: list[psutil.Process]) -> bool:
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


PROCESS = ("-m", "verl_ext.run.process")


def test_term_to_all_of_them_is_a_wish(start: Start, tmp_path: Path) -> None:
    process = start(*PROCESS, "toy", "an", "argument")
    wait_for((tmp_path / "running0").exists)
    everybody = family(process)
    assert len(everybody) >= 3
    terminate(everybody)
    time.sleep(0.3)
    terminate(everybody)  # the same wish, told twice
    assert process.wait(30) == 0
    assert (tmp_path / "saved0").read_text() == "an argument"
    wait_for(lambda: gone(everybody))


def test_a_later_one_ends_it_and_all_below_at_once(start: Start, tmp_path: Path) -> None:
    process = start(*PROCESS, "toy", "deaf")
    wait_for((tmp_path / "running0").exists)
    everybody = family(process)
    terminate(everybody)
    wait_for((tmp_path / "STOP").exists)
    time.sleep(TOGETHER + 0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == EXIT_TERMINATED
    wait_for(lambda: gone(everybody), 10)
    assert not (tmp_path / "saved0").exists()


def test_an_orphan_ends(start: Start, tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, {', '.join(map(repr, PROCESS))}, 'toy'])"
    parent = start("-c", code)
    wait_for((tmp_path / "running0").exists)
    below = parent.children(recursive=True)
    parent.kill()
    wait_for(lambda: gone(below), 15)
    assert not (tmp_path / "saved0").exists()


def test_torchruns_workers_are_asked_alike(start: Start, tmp_path: Path) -> None:
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "verl_ext.run.process", "toy")
    process = start(*PROCESS, *torchrun)
    wait_for(lambda: all((tmp_path / f"running{rank}").exists() for rank in (0, 1)), 120)
    terminate(family(process))
    assert process.wait(60) == 0
    assert all((tmp_path / f"saved{rank}").exists() for rank in (0, 1))


def test_the_supervisor_and_its_process_are_asked_together(start: Start, tmp_path: Path) -> None:
    """All at once, as a scheduler does it: the run stops in order, and says so."""
    code = (
        "import os, pathlib, sys\n"
        "from verl_ext.run.supervise import supervise\n"
        "from verl_ext.run.run_files import write_result\n"
        "out = pathlib.Path(os.environ['VIDEOSEG_RUN_DIR'])\n"
        "write_soon = out / 'toy_result.py'\n"
        "write_soon.write_text('import toy, pathlib\\nfrom verl_ext.run.run_files import write_result\\n'\n"
        "    'def main():\\n    toy.main()\\n    write_result(toy.out, finished=False)\\n')\n"
        "command = [sys.executable, '-m', 'verl_ext.run.process', 'toy_result']\n"
        "sys.exit(7 if supervise(command, os.environ, out, poll_seconds=0.05) is False else 1)"
    )
    process = start("-c", code)
    wait_for((tmp_path / "running0").exists)
    terminate(family(process))
    time.sleep(0.2)
    terminate(family(process))
    assert process.wait(30) == 7
    assert (tmp_path / "saved0").exists() and not (tmp_path / "STOP").exists()


def test_ctrl_c_twice_ends_a_process_that_has_term_blocked(start: Start, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from verl_ext.run.supervise import supervise\n"
        "command = [sys.executable, '-m', 'verl_ext.run.process', 'toy', 'deaf']\n"
        "supervise(command, os.environ, pathlib.Path(os.environ['VIDEOSEG_RUN_DIR']), poll_seconds=0.05)"
    )
    process = start("-c", code)
    wait_for((tmp_path / "running0").exists)
    everybody = family(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 1
    wait_for(lambda: gone(everybody), 10)


def test_what_one_wish_is() -> None:
    wish = Wish()
    assert wish.is_new(10.0) and wish.is_new(10.0 + TOGETHER - 0.1)
    assert not wish.is_new(10.0 + TOGETHER + 0.1)
