"""Killed at any moment: a restart goes on, and the final files are those of a run that nothing disturbed."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_construction.generate import Job, run_job
from data_construction.traces import Sources
from data_construction.verify import verify
from tests.data_construction.cot_jobs import files, lines, seed_job, vts_job
from tests.data_construction.fault_server import FaultServer, running
from tests.data_construction.trace_files import planned, write

FORK = multiprocessing.get_context("fork")  # The job is a process of its own, without a second of imports.
KILLS, FEW = 50, 8
ITEMS = {"limit": 12}
STOPPED = 7


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in another process, which outlives every job."""
    port = tmp_path_factory.mktemp("server") / "port"
    command = [sys.executable, "-m", "tests.data_construction.fault_server", str(port)]
    server = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not port.exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port.read_text()}/v1"
    finally:
        server.kill()
        server.wait()


def job(root: Path, out: Path, url: str, make: Callable[..., Job] = vts_job) -> None:
    """Runs in the child."""
    code = 1
    try:
        summary, _ = run_job(make(root, out, url, ITEMS))
        code = 0 if summary.complete else STOPPED
    finally:
        os._exit(code)


def verifying(source: Path, root: Path, out: Path) -> None:
    """Runs in the child."""
    code = 1
    try:
        code = 0 if asyncio.run(verify(source, out, Sources.parse([str(root)]))).complete else STOPPED
    finally:
        os._exit(code)


def verdicts(out: Path) -> dict[str, bytes]:
    names = ("verified.jsonl", "rejected.jsonl", "retry.jsonl", "verify.json")
    return {name: (out / name).read_bytes() for name in names}


def start(work: Callable[..., None], *args: Any) -> Any:
    process = FORK.Process(target=work, args=args)
    process.start()
    return process


def finish(root: Path, out: Path, url: str) -> dict[str, bytes]:
    process = start(job, root, out, url)
    process.join(60)
    assert process.exitcode == 0
    return files(out)


@pytest.fixture(scope="module")
def calm(tiny: Path, url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The files of an undisturbed run, and the seconds that a child takes for one."""
    run_job(vts_job(tiny, tmp_path_factory.mktemp("warm"), url, ITEMS))  # Imports here what each child would import.
    out = tmp_path_factory.mktemp("calm")
    begun = time.monotonic()
    found = finish(tiny, out, url)
    assert len(lines(out / "traces.jsonl")) == ITEMS["limit"] and len(found) == 5
    return found, time.monotonic() - begun


def kill_at_random(
    begin: Callable[[Path], Any], folder: Path, seconds: float, kills: int, grows: str
) -> Iterator[Path]:
    """Folders of jobs that ``begin`` ended after ``kills`` kills in all; some must come while the file ``grows``."""
    rng, partial, rounds = random.Random(0), 0, 0
    while kills > 0:
        out, rounds = folder / str(rounds), rounds + 1
        while True:
            process = begin(out)
            process.join(rng.uniform(0.0, 1.1 * seconds))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills -= 1
            if (out / grows).exists():
                partial += (out / grows).read_bytes().count(b"\n") > 0
        assert process.exitcode == 0
        assert not [p.name for p in out.rglob(".*.partial")], "a torn file was left behind"
        yield out
    assert partial > 0, "no kill came in the middle of the work"


def test_fifty_kills_at_random_moments(
    tiny: Path, url: str, calm: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    expected, seconds = calm
    for out in kill_at_random(lambda out: start(job, tiny, out, url), tmp_path, seconds, KILLS, "traces.jsonl"):
        assert files(out) == expected


def test_seed_traces_survive_kills(tiny: Path, url: str, tmp_path: Path) -> None:
    run_job(seed_job(tiny, tmp_path / "calm", url, ITEMS))
    begun = time.monotonic()
    start(job, tiny, tmp_path / "timed", url, seed_job).join(60)
    seconds, expected = time.monotonic() - begun, files(tmp_path / "calm")
    assert files(tmp_path / "timed") == expected and len(lines(tmp_path / "calm/traces.jsonl")) == ITEMS["limit"]
    again = kill_at_random(lambda out: start(job, tiny, out, url, seed_job), tmp_path, seconds, FEW, "traces.jsonl")
    assert all(files(out) == expected for out in again)


def test_verification_survives_kills(synthetic: Path, tmp_path: Path) -> None:
    found = planned(synthetic)
    for n in (3, 9, 20):
        found[n]["exp"] = "another thing"
    source = write(tmp_path / "traces.jsonl", found)
    asyncio.run(verify(source, tmp_path / "calm", Sources.parse([str(synthetic)])))
    begun = time.monotonic()
    start(verifying, source, synthetic, tmp_path / "timed").join(60)
    seconds, expected = time.monotonic() - begun, verdicts(tmp_path / "calm")
    assert verdicts(tmp_path / "timed") == expected and len(expected["rejected.jsonl"].splitlines()) == 3
    again = kill_at_random(
        lambda out: start(verifying, source, synthetic, out), tmp_path, seconds, FEW, "verified.jsonl"
    )
    assert all(verdicts(out) == expected for out in again)


def kill_before(step: int) -> None:
    """Die by SIGKILL in front of the ``step``-th time that a file of the job is made durable or put in place."""
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if not any("/cache/" in str(a) for a in args):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        return call

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)


def job_killed_before(step: int, root: Path, out: Path, url: str) -> None:
    kill_before(step)
    job(root, out, url)


def test_killed_before_each_of_the_steps_that_put_the_files_in_order(
    tiny: Path, url: str, calm: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    step, ends = 1, []
    while not ends or ends[-1] != 0:
        out = tmp_path / str(step)
        process = start(job_killed_before, step, tiny, out, url)
        process.join(60)
        ends.append(process.exitcode)
        assert finish(tiny, out, url) == calm[0], f"killed before step {step}"
        step += 3
    assert ends.count(-signal.SIGKILL) == len(ends) - 1 > 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly(
    tiny: Path, url: str, calm: tuple[dict[str, bytes], float], tmp_path: Path, number: signal.Signals
) -> None:
    """Twelve items of one to three turns, four at a time, a fifth of a second each: there is time to stop it."""
    with running(FaultServer(delay=0.2)) as slow:
        process = start(job, tiny, tmp_path, slow.url)
        deadline = time.monotonic() + 30
        while not (tmp_path / "traces.jsonl").exists() or not (tmp_path / "traces.jsonl").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, number)
        process.join(30)
        asked = sum(slow.bodies.values())
    assert process.exitcode == STOPPED
    assert number.name in json.loads((tmp_path / "summary.json").read_text())["stopped"]
    ids = [t["id"] for t in lines(tmp_path / "traces.jsonl")]
    assert 0 < len(ids) == len(set(ids)) < ITEMS["limit"]
    assert len(lines(tmp_path / "spent.jsonl")) == asked  # What was in flight came to its end and is counted.
    assert finish(tiny, tmp_path, url) == calm[0]
