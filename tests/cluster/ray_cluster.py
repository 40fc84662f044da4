"""A Ray cluster of two nodes on one machine, with a dashboard, in a folder and on ports of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from verl_ext.supervised.run import free_port


class RayCluster:
    """Starts when it is made; ``close`` ends what it started. Two logical GPUs, one a node."""

    def __init__(self, seconds: float = 180) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vsray-", dir="/tmp"))  # short: sockets lie below it
        self.dashboard = f"http://127.0.0.1:{(web := free_port())}"
        gcs = f"127.0.0.1:{(port := free_port())}"
        own = [f"--ray-client-server-port={free_port()}", f"--dashboard-port={web}", "--include-dashboard=true"]
        agent = f"--dashboard-agent-listen-port={free_port()}"
        head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}", *own, agent]
        self._processes = [self._start("head", *head)]
        end = time.monotonic() + seconds
        while not self._answers():
            if time.monotonic() > end:
                raise RuntimeError((self.folder / "head.out").read_text())
            time.sleep(1)
        second = [f"--address={gcs}", "--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}"]
        self._processes.append(self._start("second", *second))

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        out = (self.folder / f"{name}.out").open("wb")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        sizes = ["--num-cpus=32", "--num-gpus=1", f"--object-store-memory={256 << 20}"]
        env = {**os.environ, "RAY_TMPDIR": str(self.folder), "RAY_AUTH_MODE": "disabled"}
        env.pop("RAY_ADDRESS", None)
        return subprocess.Popen([*command, *sizes, *options], stdout=out, stderr=out, env=env, start_new_session=True)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.dashboard}/api/version", timeout=5).close()
        except OSError:
            return False
        return True

    def lose_the_second(self) -> None:
        """As a machine that loses its power."""
        _kill(self._processes.pop())

    def close(self) -> None:
        for process in self._processes:
            _kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
