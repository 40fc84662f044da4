"""A run in the background of this machine: it outlives the terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from verl_ext.launch.scheduler import Job, Scheduler, State, Submitted, lines_of
from verl_ext.run.stop import ask_to_stop

SCRIPT, OUTPUT = "run.sh", "run.log"


class Local:
    """See `Scheduler`."""

    def render(self, job: Job) -> dict[str, str]:
        exports = [f"export {n}={shlex.quote(v)}" for n, v in job.recipe.cluster.environment.items()]
        lines = ["#!/usr/bin/env bash", "set -euo pipefail", f"cd {shlex.quote(job.project)}", *exports]
        return {SCRIPT: "\n".join([*lines, f"exec {shlex.join(job.train())}"]) + "\n"}

    def command(self, job: Job) -> str:
        return shlex.join(["bash", str(job.folder / SCRIPT)])

    def submit(self, job: Job) -> Submitted:
        with (job.folder / OUTPUT).open("ab") as log:
            process = subprocess.Popen(
                ["bash", str(job.folder / SCRIPT)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Submitted("local", str(process.pid), job.recipe.output_dir, self.command(job))

    def state(self, job: Submitted, folder: Path) -> State:
        alive = _is_alive(int(job.id), job.output_dir)
        return State(alive, "running" if alive else "ended")

    def logs(self, job: Submitted, folder: Path) -> Iterator[str]:
        return lines_of(folder / OUTPUT)

    def stop(self, job: Submitted, folder: Path, now: bool) -> str:
        if not _is_alive(int(job.id), job.output_dir):
            return "it has ended already"
        if now:
            import psutil

            from verl_ext.run.process import end_all_below

            end_all_below(int(job.id))
            psutil.Process(int(job.id)).kill()
            return "ended at once; what came after the last checkpoint is lost"
        ask_to_stop(job.output_dir)
        return "it finishes its step, saves and ends"


def _is_alive(pid: int, output_dir: str) -> bool:
    """Whether that process is ours still: numbers come again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.uids().real == os.getuid() and _trains(process)
    except psutil.Error:
        return False


def _trains(process: object) -> bool:
    words = process.cmdline()  # type: ignore[attr-defined]
    return any(word == "verl_ext.cli.main" or word.endswith(SCRIPT) for word in words)


SCHEDULER: Scheduler = Local()
