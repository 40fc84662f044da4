"""W&B and TensorBoard of a run that is resumed, with both libraries as they are (W&B offline)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.types import Sample
from verl_ext.recipe import Recipe
from verl_ext.run.loggers import WANDB_RUN, forget_logged_after, wandb_environment
from verl_ext.run.prepare import worker_environment


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of every file, as written: also what TensorBoard itself would hide."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    out: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                out.setdefault(value.tag, []).append((event.step, number))
    return out


def log(folder: Path, steps: range, base: float) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            writer.add_scalar("reward/mean", base + step, step)


def test_steps_done_again_are_not_in_tensorboard_twice(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    log(folder, range(0, 8), 0.0)
    file = next(folder.glob("events*"))
    with file.open("ab") as f:
        f.write(b"\x10\x00\x00torn")  # killed while it wrote
    forget_logged_after(tmp_path, 5)
    log(folder, range(6, 10), 100.0)
    found = events_of(folder)["reward/mean"]
    assert found == [(s, float(s)) for s in range(6)] + [(s, 100.0 + s) for s in range(6, 10)]
    assert not list(folder.glob(".*"))
    before = {p: p.read_bytes() for p in folder.glob("events*")}
    forget_logged_after(tmp_path, 9)  # nothing comes again: nothing is touched
    assert {p: p.read_bytes() for p in folder.glob("events*")} == before
    forget_logged_after(tmp_path, None)
    assert events_of(folder) == {}


def test_a_resumed_run_is_the_same_run_in_wandb(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    recipe = tiny_recipe("grpo", "trainer.loggers=[wandb]", f"output_dir={tmp_path}")
    ids = []
    for _ in range(2):
        for name, value in worker_environment(recipe, tmp_path / "resolved.yaml").items():
            if name.startswith("WANDB"):
                monkeypatch.setenv(name, value)
        run = wandb.init(project="test", mode="offline", settings=wandb.Settings(silent=True))
        ids.append(run.id)
        run.finish()
    assert ids[0] == ids[1] and len(list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}"))) >= 1
    monkeypatch.delenv("WANDB_RUN_ID")
    forget_logged_after(tmp_path, None)  # begun anew: another run
    assert wandb_environment(tmp_path)["WANDB_RUN_ID"] != ids[0]
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert wandb_environment(tmp_path)["WANDB_RUN_ID"] == "mine"
    plain = tiny_recipe("grpo", f"output_dir={tmp_path / 'plain'}")
    assert not (tmp_path / "plain" / WANDB_RUN).exists()
    assert "WANDB_RESUME" not in worker_environment(plain, tmp_path / "resolved.yaml")


@pytest.fixture
def groups(tmp_path: Path, samples: list[Sample]) -> list[Any]:
    from benchmarks.viewer_runs import write_run
    from verl_ext.rollout_log import read_group, read_header, step_files

    write_run(tmp_path / "kept", samples, 1, 2, 3)
    file = step_files(tmp_path / "kept")[0]
    header = read_header(file, tmp_path / "kept")
    return [read_group(file, header, i, tmp_path / "kept") for i in range(2)]


def test_rollouts_become_images_in_tensorboard(tmp_path: Path, groups: list[Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from verl_ext.rollout_log.publish import film_strip, publish

    writer = SummaryWriter(str(tmp_path / "tb"))
    publish({"tensorboard": SimpleNamespace(writer=writer), "file": object()}, 25, groups)
    writer.close()
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    tags = [f"rollouts/group {n}, {place}" for n in (1, 2) for place in ("best", "worst")]
    assert sorted(found.Tags()["images"]) == tags
    (image,) = found.Images(tags[0])
    best = max(groups[0].rollouts, key=lambda r: r.rewards["total"])
    height, width, _ = film_strip(groups[0], best).shape
    assert (image.step, image.height, image.width) == (25, height, width) and width % height == 0


def test_rollouts_become_a_table_in_wandb(tmp_path: Path, groups: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    wandb = pytest.importorskip("wandb")
    from verl_ext.rollout_log.publish import COLUMNS, publish

    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))
    for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    run = wandb.init(project="test", mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True))
    publish({"wandb": wandb}, 25, groups)
    wandb.log({"reward/mean": 1.0}, step=25)
    run.finish()
    (table,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/rollouts*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == list(COLUMNS) and len(content["data"]) == 4
    assert [row[0] for row in content["data"]] == [25] * 4
    staged = list((tmp_path / "wandb" / "artifacts" / "staging").iterdir())  # for `wandb sync`, beside the run
    assert len(staged) >= 4 + 2 * 4, "a frame a row, and its masks apart from it, to be switched on"


@pytest.mark.parametrize(("begun_at", "left"), [(2, [1, 2]), (None, [])])
def test_a_continued_run_forgets_the_rollouts_that_it_does_again(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, begun_at: int | None, left: list[int]
) -> None:
    import verl_ext.run.prepare as prepare
    from benchmarks.viewer_runs import write_run
    from verl_ext.rollout_log import step_files

    write_run(tmp_path, samples, 4, 1, 2)
    monkeypatch.setattr(prepare, "tracked_step", lambda out: begun_at)
    prepare._forget_what_comes_again(tmp_path)
    assert [f.step for f in step_files(tmp_path)] == left
