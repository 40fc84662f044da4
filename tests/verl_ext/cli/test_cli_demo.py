"""``videoseg demo``: what it says before anything starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from verl_ext.cli.main import app
from verl_ext.demo import serve
from verl_ext.run.prepare import recipe_of_policy


def refused(*args: str) -> str:
    done = CliRunner().invoke(app, ["demo", *args])
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def test_without_gradio_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "gradio" else found(name))
    said = refused(str(tmp_path))
    assert "needs Gradio" in said and "videoseg-rl[demo]" in said


def test_one_policy_and_a_real_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "give the policy's folder once" in refused()
    assert "give the policy's folder once" in refused("a", "--model", "b")
    monkeypatch.setattr(serve, "find_spec", lambda name: True)
    assert "no policy there" in refused(str(tmp_path), "--port", "0")
    assert not list(tmp_path.iterdir())


def test_a_policy_is_asked_as_its_run_asked_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    for name in ("policy", "checkpoints/global_step_3/policy"):
        (run / name).mkdir(parents=True)
        (run / name / "config.json").write_text("{}")
    (run / "resolved.yaml").write_text("{}")
    monkeypatch.chdir(run)
    for policy in (run / "policy", run / "checkpoints" / "global_step_3" / "policy", Path("policy")):
        assert recipe_of_policy(policy) == run / "resolved.yaml"
    (tmp_path / "elsewhere").mkdir()
    assert recipe_of_policy(tmp_path / "elsewhere") is None

    given: list[Any] = []
    monkeypatch.setattr(serve, "find_spec", lambda name: True)
    monkeypatch.setattr(serve, "serve", lambda request_at, name, *rest: given.append((request_at(tmp_path), name)))
    for more in ((), ("--recipe", "mine.yaml", "--set", "rollout.max_turns=1")):
        assert CliRunner().invoke(app, ["demo", str(run / "policy"), *more]).exit_code == 0
    (first, name), (second, _) = given
    assert (first.recipe, name) == (run / "resolved.yaml", "run/policy") and first.targets[0].root == tmp_path
    assert (second.recipe, second.overrides) == (Path("mine.yaml"), ("rollout.max_turns=1",))
