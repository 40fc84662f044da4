"""A data set is whole or not there, however the run ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_construction import atomic
from data_construction.check import check_dataset
from data_construction.synthetic import make_synthetic, writer
from rollout.errors import DataError

CODE = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
from data_construction.synthetic import make_synthetic
make_synthetic(sys.argv[1], {"train": 2000}, seed=1, frames=(12, 12), size=48)
"""


def start_and_interrupt(root: Path, how: signal.Signals) -> int:
    process = subprocess.Popen([sys.executable, "-c", CODE, str(root)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(root.parent.glob(".set.partial-*/JPEGImages/train_00005/*.jpg")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    return process.wait(30)


def test_a_killed_run_leaves_no_data_set_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    root = tmp_path / "set"
    assert start_and_interrupt(root, signal.SIGKILL) == -signal.SIGKILL
    assert not root.exists() and len(list(tmp_path.iterdir())) == 1
    make_synthetic(root, {"train": 2}, seed=1, frames=(12, 12), size=48)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert check_dataset("revos", root).ok


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    assert start_and_interrupt(tmp_path / "set", signal.SIGINT) != 0
    assert list(tmp_path.iterdir()) == []


def test_a_failure_late_in_the_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_training_files", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make_synthetic(tmp_path / "set", {"train": 1}, seed=1, frames=(12, 12), size=48)
    assert list(tmp_path.iterdir()) == []


def test_a_living_run_is_not_cleaned_away(tmp_path: Path) -> None:
    host = atomic.socket.gethostname()
    alive = tmp_path / f".set.partial-{host}-{os.getppid()}"
    elsewhere = tmp_path / ".set.partial-another-host-99999999"
    alive.mkdir()
    elsewhere.mkdir()
    with atomic.new_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("x")
    assert {p.name for p in tmp_path.iterdir()} == {"set", alive.name, elsewhere.name}


@pytest.mark.parametrize("step", ["write", "replace"])
def test_json_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    atomic.write_json(tmp_path / "a.json", [1])

    class Full(io.FileIO):
        def write(self, text: Any) -> int:
            super().write(text.encode()[: len(text) // 2])
            raise OSError(28, "No space left on device")

    def refused(*_: object) -> None:
        raise OSError(13, "Permission denied")

    if step == "write":
        monkeypatch.setattr(atomic.os, "fdopen", lambda handle, *_, **__: Full(handle, "w"))
    else:
        monkeypatch.setattr(atomic.os, "replace", refused)
    with pytest.raises(OSError, match=r"No space left|Permission"):
        atomic.write_json(tmp_path / "a.json", [1, 2, 3])
    assert (tmp_path / "a.json").read_text() == "[1]" and len(list(tmp_path.iterdir())) == 1


def test_a_link_to_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "disk/set").mkdir(parents=True)
    (tmp_path / "set").symlink_to(tmp_path / "disk/set")
    with atomic.new_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "set").is_symlink() and (tmp_path / "disk/set/a").read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 2 and len(list((tmp_path / "disk").iterdir())) == 1


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "set")
    with pytest.raises(DataError, match="set: is a mount point"), atomic.new_folder(tmp_path / "set"):
        raise AssertionError("the work has begun")
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]
