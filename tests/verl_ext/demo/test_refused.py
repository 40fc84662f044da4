"""What ``videoseg demo`` refuses before it says that anything starts."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from verl_ext.cli.main import app


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "nosuch")])
    assert done.exit_code != 0
    assert "nosuch" in done.output + str(done.exception) and "Starting" not in done.output


def test_a_folder_without_a_policy(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", str(tmp_path)])
    assert "no policy there" in done.output + str(done.exception) and "Starting" not in done.output
