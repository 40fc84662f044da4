"""What of the machine would end a run after its start is said before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from verl_ext.recipe import Recipe, check_ready
from verl_ext.recipe.loggers import has_wandb_key, logger_problem


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_CONFIG_DIR")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_long_temporary_folder(tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "x" * 60)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    (said,) = check_ready(tiny_recipe("grpo"))
    assert said.startswith("TMPDIR: ") and "107" in said
    assert check_ready(tiny_recipe("sft")) == []  # starts no Ray
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert check_ready(tiny_recipe("grpo")) == []


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_an_output_folder_in_rays_cache(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    """A relative one under ``ray job submit --working-dir``: --resume would find nothing there."""
    unpacked = tmp_path / "ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    (said,) = check_ready(tiny_recipe(stage, "output_dir=runs/x"))
    assert said.startswith("output_dir: runs/x lies in Ray's copy of the job's --working-dir")
    assert check_ready(tiny_recipe(stage, f"output_dir={tmp_path}/runs")) == []


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_logger_without_its_key(tiny_recipe: Callable[..., Recipe], stage: str) -> None:
    (said,) = check_ready(tiny_recipe(stage, "trainer.loggers=[console,wandb]"))
    assert said.startswith("trainer.loggers: wandb, but it has no key: run `wandb login`, or set WANDB_API_KEY")
    assert check_ready(tiny_recipe(stage, "trainer.loggers=[console,tensorboard]")) == []


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_modes_without_a_key(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert has_wandb_key()


def test_where_keys_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_wandb_key()
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine example.org\n  login user\n  password x\n")
    netrc.chmod(0o600)
    assert not has_wandb_key()
    netrc.write_text("machine api.wandb.ai\n  login user\n  password " + "k" * 40 + "\n")
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.here")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_wandb_key()


def test_what_wandb_itself_has_written_counts(tmp_path: Path) -> None:
    """`wandb offline` keeps its word in the folder where it was given."""
    settings = tmp_path / "wandb" / "settings"
    settings.parent.mkdir()
    settings.write_text("[default]\nmode = online\n")
    assert not has_wandb_key()
    settings.write_text("[default]\nmode = offline\n")
    assert has_wandb_key()


def test_a_logger_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_ext.recipe.loggers.find_spec", lambda name: None)
    assert (
        logger_problem("tensorboard")
        == "tensorboard, but the package tensorboard is not installed: pip install tensorboard"
    )
    assert logger_problem("console") is None and logger_problem("jsonl") is None
