"""Dead workers are found in a real Ray; the pool's own and finished ones are not taken for dead."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, time
import ray
from verl_ext.watchdog import EXIT_CODE, dead_actors, watch_actors

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

class WorkerDict:
    def pid(self): return os.getpid()
    def die(self): os._exit(1)

class SegmenterWorker(WorkerDict):
    pass

worker, other = (ray.remote(c).options(num_cpus=0).remote() for c in (WorkerDict, SegmenterWorker))
ray.get([worker.pid.remote(), other.pid.remote()])
assert dead_actors() == [], dead_actors()
other.die.remote()
time.sleep(1)
assert dead_actors() == [], dead_actors()
print("alive", flush=True)
with watch_actors(every_seconds=0.3):
    worker.die.remote()
    time.sleep(30)
print("never reached", flush=True)
"""


@pytest.mark.e2e
def test_a_dead_worker_ends_the_run_with_its_name() -> None:
    from verl_ext.watchdog import EXIT_CODE

    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert run.returncode == EXIT_CODE, run.stderr[-2000:]
    assert "alive" in run.stdout and "never reached" not in run.stdout
    words = next(line for line in run.stderr.splitlines() if "a worker died" in line)
    assert "WorkerDict" in words and "--resume" in words
    assert "SegmenterWorker" not in words
