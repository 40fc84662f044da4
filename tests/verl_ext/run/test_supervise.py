"""A supervised process: its end, its last words, its metrics, and how it is asked to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rollout.errors import RecipeError, WorkerError
from verl_ext.run.run_files import RESULT_FILE, STARTING
from verl_ext.run.supervise import (
    LIVE_METRICS,
    METRICS,
    STOP_FILE,
    WORKER_DIED,
    alone_in,
    asked_to_stop,
    fold_metrics,
    last_words,
    read_metrics,
    run_finished,
    scalar,
    supervise,
)

PREAMBLE = "import json, os, pathlib, subprocess, sys, time\nout = pathlib.Path(sys.argv[1])\n"


def run(out: Path, code: str, finished: bool | None = True, **settings: Any) -> bool:
    """Supervise ``code``, which at its end writes that it ``finished``, unless that is None."""
    result = "" if finished is None else f"\n(out / {RESULT_FILE!r}).write_text({json.dumps(said(finished))!r})"
    command = [sys.executable, "-c", PREAMBLE + code + result, str(out)]
    return supervise(command, os.environ, settings.pop("here", out), poll_seconds=0.05, **settings)


def said(finished: bool) -> dict[str, bool]:
    return {"finished": finished, "asked_to_stop": False}


def interrupt_once(ready: Path, number: int = signal.SIGINT) -> threading.Thread:
    """Send ourselves a signal as soon as the child says that it runs."""

    def wait() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def live_row(step: int, **data: Any) -> str:
    return json.dumps({"step": step, "data": data}) + "\n"


def test_a_finished_process_reports_its_progress_and_its_metrics(tmp_path: Path) -> None:
    row = live_row(3, **{"reward/mean": 0.5})
    seen: list[tuple[int, int, str]] = []
    finished = run(
        tmp_path,
        f"(out / {LIVE_METRICS!r}).write_text({row!r})",
        total=7,
        progress=lambda *x: seen.append(x),
        describe=lambda m: f"reward {m['reward/mean']}",
    )
    assert finished
    assert seen[-1] == (3, 7, "reward 0.5")
    assert read_metrics(tmp_path / METRICS) == [{"step": 3, "data": {"reward/mean": 0.5}}]
    assert not (tmp_path / LIVE_METRICS).exists()


def test_a_failure_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        run(tmp_path, "print('noise ' * 9)\ndef train(): raise RuntimeError('the decoder is gone')\ntrain()")
    message = str(caught.value)
    assert "exit code 1" in message and str(tmp_path / "train.log") in message
    assert "Traceback (most recent call last)" in message and "RuntimeError: the decoder is gone" in message
    assert "noise" not in message


def test_a_killed_process_is_named_by_its_signal(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="signal 9"):
        run(tmp_path, "os.kill(os.getpid(), 9)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_may_finish_its_step(tmp_path: Path, number: int) -> None:
    code = (
        "(out / 'running').touch()\n"
        f"while not (out / {STOP_FILE!r}).exists(): time.sleep(0.02)\n"
        "(out / 'saved').touch()"
    )
    before = signal.getsignal(number)
    interrupt_once(tmp_path / "running", number)
    assert run(tmp_path, code, finished=False) is False
    assert not run_finished(tmp_path) and asked_to_stop(tmp_path)
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / STOP_FILE).exists()
    assert signal.getsignal(number) is before


def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    interrupt_once(tmp_path / "running")
    again = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    again.start()
    began = time.perf_counter()
    with pytest.raises(WorkerError, match="signal 15"):
        run(tmp_path, "(out / 'running').touch()\ntime.sleep(60)")
    assert time.perf_counter() - began < 20
    again.join()


def test_a_run_that_finishes_in_spite_of_the_request_has_finished_and_the_wish_is_known(tmp_path: Path) -> None:
    """Its last step was under way. The quickstart still ends before its next stage."""
    interrupt_once(tmp_path / "running")
    code = f"(out / 'running').touch()\nwhile not (out / {STOP_FILE!r}).exists(): time.sleep(0.02)"
    assert run(tmp_path, code) is True
    assert run_finished(tmp_path) and asked_to_stop(tmp_path)
    assert run(tmp_path, "") is True
    assert not asked_to_stop(tmp_path)


def test_a_process_that_ends_without_a_word_has_failed(tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text(json.dumps(said(True)))  # an earlier run's
    with pytest.raises(WorkerError, match=f"ended without .*{RESULT_FILE}"):
        run(tmp_path, "print('bye')", finished=None)


def test_a_further_machine_asks_the_whole_run_to_stop_and_clears_nothing_away(tmp_path: Path) -> None:
    """Its own folder holds its log; the stop file and the result are the run's."""
    here = tmp_path / "node_1"
    (tmp_path / LIVE_METRICS).write_text(live_row(4, loss=1.0))
    interrupt_once(tmp_path / "running")
    code = f"(out / 'running').touch()\nwhile not (out / {STOP_FILE!r}).exists(): time.sleep(0.02)"
    seen: list[int] = []
    progress = {"progress": lambda done, *_: seen.append(done)}
    assert run(tmp_path, code, finished=False, here=here, run_dir=tmp_path, **progress) is False
    assert (tmp_path / STOP_FILE).exists() and (tmp_path / LIVE_METRICS).exists() and 4 in seen
    assert [p.name for p in here.iterdir()] == ["train.log"]


def test_a_signal_that_all_machines_get_ends_none_of_them_at_once(tmp_path: Path) -> None:
    """The first one's stop file is there when the second one's signal arrives."""
    interrupt_once(tmp_path / "running")
    wait = "(out / 'STOP').touch(); (out / 'running').touch(); time.sleep(1)"
    assert run(tmp_path, wait, finished=False) is False


def test_a_stop_file_of_an_earlier_run_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / STOP_FILE).touch()
    assert run(tmp_path, f"if (out / {STOP_FILE!r}).exists(): sys.exit(5)")


def test_nothing_of_its_session_is_left(tmp_path: Path) -> None:
    helper = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = f"p = {helper}\n(out / 'pid').write_text(str(p.pid))\nos._exit(1)"
    with pytest.raises(WorkerError):
        run(tmp_path, code)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the helper outlived its run"
        time.sleep(0.05)


def test_the_process_dies_with_its_supervisor(tmp_path: Path) -> None:
    child = PREAMBLE + "(out / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    supervisor = (
        "import os, pathlib, sys\n"
        "from verl_ext.run.supervise import supervise\n"
        f"supervise([sys.executable, '-c', {child!r}, sys.argv[1]], os.environ, pathlib.Path(sys.argv[1]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", supervisor, str(tmp_path)])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_resumed_run_replaces_the_steps_that_it_did_again(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(live_row(1, x=1) + live_row(2, x=2) + live_row(3, x=3))
    (tmp_path / LIVE_METRICS).write_text(live_row(2, x=20) + live_row(4, x=40) + '{"step": 5, "da')  # torn
    fold_metrics(tmp_path)
    assert [(r["step"], r["data"]["x"]) for r in read_metrics(tmp_path / METRICS)] == [(1, 1), (2, 20), (3, 3), (4, 40)]
    assert not (tmp_path / LIVE_METRICS).exists()
    fold_metrics(tmp_path)  # nothing new: nothing changes
    assert len(read_metrics(tmp_path / METRICS)) == 4


def test_an_evaluation_of_a_step_joins_its_training_metrics(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(live_row(3, loss=1.0))
    (tmp_path / LIVE_METRICS).write_text(live_row(3, **{"val/jf": 50.0}))
    fold_metrics(tmp_path)
    assert read_metrics(tmp_path / METRICS) == [{"step": 3, "data": {"loss": 1.0, "val/jf": 50.0}}]


def test_the_last_of_several_tracebacks_is_told(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    trace = "Traceback (most recent call last):\n  File x\n"
    log.write_text(f"{trace}ValueError: first\nmore\n{trace}KeyError: second\n")
    assert "second" in last_words(log) and "first" not in last_words(log)
    log.write_text("just\nwords\n")
    assert "just\nwords" in last_words(log)


@pytest.mark.parametrize(("value", "expected"), [(1, 1.0), ([[2.5]], 2.5), ([1, 3], 3.0), ("x", None), ([], None)])
def test_scalar(value: Any, expected: float | None) -> None:
    assert scalar(value) == expected


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    at_work = pytest.raises(RecipeError, match="another training process is at work")
    with alone_in(tmp_path), at_work, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_a_run_does_not_outlive_a_display_that_fails(tmp_path: Path) -> None:
    def show(*_: Any) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(tmp_path, "(out / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)", progress=show)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_progress_knows_the_steps_that_the_process_announces(tmp_path: Path) -> None:
    code = (
        "from verl_ext.run.run_files import announce_total\n"
        "announce_total(out, 7)\n"
        f"log = (out / {LIVE_METRICS!r}).open('a')\n"
        "for n in (1, 2):\n"
        "    log.write(json.dumps({'step': n, 'data': {'loss': n, f'only{n}': 1}}) + chr(10)); log.flush()\n"
        "log.write('{\"step\": 3, ')\n"  # torn
    )
    seen: list[Any] = []
    run(
        tmp_path,
        code,
        progress=lambda *given: seen.append(given),
        describe=lambda m: f"{m['loss']} {sorted(k for k in m if k.startswith('only'))}",
    )
    assert seen[0][2] == STARTING
    assert seen[-1] == (2, 7, "2 ['only1', 'only2']")  # what an earlier row said (an evaluation) stays in sight


def test_the_watchdogs_sentence_comes_before_the_traceback_and_older_runs_do_not_count(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    old = f"{WORKER_DIED}: of yesterday\nTraceback (most recent call last):\nKeyError: yesterday\n"
    log.write_text(f"{old}(TaskRunner) {WORKER_DIED}: WorkerDict\nTraceback (most recent call last):\nActorDied: x\n")
    words = last_words(log, since=len(old)).splitlines()
    assert words[1] == f"(TaskRunner) {WORKER_DIED}: WorkerDict" and words[-1] == "ActorDied: x"
    assert not [w for w in words if "yesterday" in w]
