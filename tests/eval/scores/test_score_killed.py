"""Scoring that is killed takes its processes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

KILLED = """
import sys, time
from pathlib import Path
from eval.scores.pool import map_unordered

def work(seconds):
    import os
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(seconds)

if __name__ == "__main__":
    list(map_unordered(work, iter([300.0] * 2), 2))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_scoring_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(KILLED)
    (tmp_path / "pids").mkdir()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    driver = subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path / "pids"], env=env)
    deadline = time.monotonic() + 120
    while len(pids := [int(p.name) for p in (tmp_path / "pids").iterdir()]) < 2:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    workers = [psutil.Process(pid) for pid in pids]
    driver.send_signal(how)
    assert driver.wait(30) == -how
    _, alive = psutil.wait_procs(workers, timeout=30)
    for process in alive:
        process.kill()
    assert alive == []
