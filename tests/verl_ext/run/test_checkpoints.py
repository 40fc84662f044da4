"""Which checkpoints a run keeps, what ``policy`` points to, and what ``--resume`` may change."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import RecipeError, WorkerError
from verl_ext.recipe import Recipe
from verl_ext.reinforce.run import train_grpo
from verl_ext.run.checkpoints import (
    TRACKER,
    check_continues,
    link_newest_policy,
    newest_policy,
    remove_old,
    repair_tracker,
    step_folder,
    step_folders,
    tracked_step,
)
from verl_ext.run.prepare import RESOLVED, node_folder, prepare_run
from verl_ext.run.run_files import FAILED_DIALOGUES, HELD_OUT, METRICS, forget_after, read_metrics
from verl_ext.run.supervise import alone_in
from verl_ext.supervised.run import rendezvous

BY_TWO = [f"model_world_size_2_rank_{rank}.pt" for rank in range(2)]
NAMES = (METRICS, HELD_OUT, FAILED_DIALOGUES)


def saved(out: Path, *steps: int, policy: bool = True, tracked: int | None = None) -> None:
    for step in steps:
        folder = step_folder(out, step)
        (folder / "actor").mkdir(parents=True)
        if policy:
            (folder / "policy").mkdir()
            (folder / "policy" / "config.json").write_text(str(step))
    if tracked is not None:
        (out / "checkpoints" / TRACKER).write_text(str(tracked))


def test_the_newest_policy_is_by_number_and_complete(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="holds no policy"):
        newest_policy(tmp_path)
    saved(tmp_path, 9, 10, 100)
    saved(tmp_path, 200, policy=False)  # died while exporting
    assert newest_policy(tmp_path).parent.name == "global_step_100"
    saved(tmp_path, tracked=10)  # continued from there: 100 will come again
    assert newest_policy(tmp_path).parent.name == "global_step_10"


def test_policy_is_a_link_that_moves_with_the_run_and_with_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for step in (1, 2):
        saved(out, step)
        link_newest_policy(out)
        assert (out / "policy" / "config.json").read_text() == str(step)
    moved = out.rename(tmp_path / "elsewhere")
    assert (moved / "policy" / "config.json").read_text() == "2"
    assert not list(moved.glob(".*"))


def test_a_real_policy_folder_is_left_alone(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("mine")
    link_newest_policy(tmp_path)
    assert (tmp_path / "policy" / "config.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("keep", "tracked", "left"),
    [
        (2, 30, [20, 30]),
        (1, 30, [30]),
        (9, 30, [5, 20, 30]),
        (0, 30, [5, 20, 30]),
        (1, 20, [20]),  # 30 is half of a save that was killed: it must not push 20 out
        (2, 20, [5, 20]),
        (1, None, [5, 20, 30]),  # nothing is known, so nothing goes
    ],
)
def test_old_checkpoints_go_with_their_policies(
    keep: int, tracked: int | None, left: list[int], tmp_path: Path
) -> None:
    saved(tmp_path, 5, 20, 30, tracked=tracked)
    remove_old(tmp_path, keep)
    assert [step for step, _ in step_folders(tmp_path)] == left


@pytest.mark.parametrize(
    ("text", "whole", "expected"),
    [
        ("", {5: ["data.pt"], 20: ["data.pt"]}, 20),
        (None, {5: ["data.pt"]}, 5),
        ("99", {5: ["data.pt"]}, 5),  # its folder is gone
        ("", {5: [*BY_TWO, "data_0.pt", "data_1.pt"], 20: [*BY_TWO, "data_0.pt"]}, 5),  # supervised
        ("5", {20: ["data.pt"]}, 5),
    ],
)
def test_a_tracker_that_names_no_checkpoint(
    text: str | None, whole: dict[int, list[str]], expected: int, tmp_path: Path
) -> None:
    """verl would start anew, beside the checkpoints and over them."""
    saved(tmp_path, 5, 20, 30)
    for step, names in whole.items():
        for name in names:
            (step_folder(tmp_path, step) / name).touch()
    tracker = tmp_path / "checkpoints" / TRACKER
    if text is not None:
        tracker.write_text(text)
    repair_tracker(tmp_path)
    assert tracked_step(tmp_path) == expected and tracker.read_text() == str(expected)


def test_without_a_whole_checkpoint_a_run_starts_anew_or_says_why_not(recipe: Recipe, tmp_path: Path) -> None:
    saved(tmp_path, 5, policy=False)
    prepare_run(recipe, resume=True)  # killed in its first save: nothing was ever finished
    (tmp_path / "checkpoints" / TRACKER).write_text("")
    with pytest.raises(RecipeError, match=rf"--resume: .*{TRACKER} names no checkpoint .* none beside it is whole"):
        prepare_run(recipe, resume=True)


def test_evaluations_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "held_out.jsonl"
    forget_after(file, 3)
    file.write_text('{"step": 0, "x": 1}\n{"step": 5}\n{"step": 10}\n{"step": 1')  # torn
    forget_after(file, 5)
    assert file.read_text() == '{"step": 0, "x": 1}\n{"step": 5}\n'


# ---- --resume ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Recipe:
    return tiny_recipe("grpo", f"output_dir={tmp_path}")


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("trainer", {"prompts_per_step": 2}),
        ("trainer", {"shuffle": False}),
        ("optim", {"lr": 1e-7}),
        ("optim", {"decoder_lr": 1e-7}),
        ("policy", {"freeze_vision": True}),
    ],
)
def test_what_a_checkpoint_fixes_cannot_change(recipe: Recipe, section: str, change: Any, tmp_path: Path) -> None:
    prepare_run(recipe, resume=False)
    saved(tmp_path, 4, tracked=4)
    link_newest_policy(tmp_path)
    before = (tmp_path / RESOLVED).read_text()
    changed = replace(recipe, **{section: replace(getattr(recipe, section), **change)})
    (key, value), *_ = change.items()
    with pytest.raises(RecipeError, match=rf"{section}\.{key}: .* there, {value!r} now") as error:
        prepare_run(changed, resume=True)
    assert f"policy.path={tmp_path / 'policy'}" in str(error.value)
    assert (tmp_path / RESOLVED).read_text() == before


def test_the_place_in_the_data_is_that_of_the_same_data(recipe: Recipe, tmp_path: Path) -> None:
    check_continues(recipe, replace(recipe, data=[replace(recipe.data[0], root="/elsewhere")]), tmp_path)
    for changed in (replace(recipe, seed=7), replace(recipe, data=[replace(recipe.data[0], weight=2.0)])):
        with pytest.raises(RecipeError, match=r"- (seed|data): "):
            check_continues(recipe, changed, tmp_path)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_dialogues_that_a_checkpoint_holds_fix_what_they_were_made_with(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, mode: str
) -> None:
    """Their frames lie where the data were, and their groups would be taken for half lost."""
    recipe = tiny_recipe("grpo", f"trainer.mode={mode}")
    moved = replace(recipe, data=[replace(recipe.data[0], root="/elsewhere")])
    larger = replace(recipe, rollout=replace(recipe.rollout, group_size=4))
    for changed, key in ((moved, "data"), (larger, r"rollout\.group_size")):
        if mode == "sync":
            check_continues(recipe, changed, tmp_path)
        else:
            with pytest.raises(RecipeError, match=rf"- {key}: .* there, .* now"):
                check_continues(recipe, changed, tmp_path)


def test_what_a_continued_run_does_again_is_forgotten(recipe: Recipe, tmp_path: Path) -> None:
    """Rows of the later steps would stand beside those of the run that really came to its end."""

    def write() -> None:
        for name in NAMES:
            (tmp_path / name).write_text("".join(f'{{"step": {n}, "data": {{}}}}\n' for n in (0, 3, 4, 9)))

    write()
    saved(tmp_path, 4, tracked=4)
    prepare_run(recipe, resume=True)
    assert [[row["step"] for row in read_metrics(tmp_path / n)] for n in NAMES] == [[0, 3, 4]] * 3
    (tmp_path / "checkpoints").rename(tmp_path / "old")
    write()
    prepare_run(recipe, resume=True)
    assert [read_metrics(tmp_path / n) for n in NAMES] == [[]] * 3  # begun anew


def test_a_second_start_changes_nothing_of_the_first(recipe: Recipe, tmp_path: Path) -> None:
    prepare_run(recipe, resume=False)
    saved(tmp_path, 4, tracked=4)
    (tmp_path / METRICS).write_text('{"step": 9, "data": {}}\n')

    def contents() -> dict[str, str]:
        return {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}

    before = contents()
    longer = replace(recipe, trainer=replace(recipe.trainer, steps=99))
    with alone_in(tmp_path), pytest.raises(RecipeError, match="another training process is at work"):
        train_grpo(longer, resume=True)
    assert contents() == before | {".lock": ""}


def test_lengths_rewards_and_processes_may_change(recipe: Recipe, tmp_path: Path) -> None:
    prepare_run(recipe, resume=False)
    saved(tmp_path, 4, tracked=4)
    longer = replace(recipe, trainer=replace(recipe.trainer, steps=99, eval_every=0, actor_processes=2))
    prepared, _ = prepare_run(longer, resume=True)
    assert prepared.trainer.steps == 99 and prepared.trainer.actor_processes == 2 and prepared.trainer.resume == "auto"


def test_a_start_that_left_no_checkpoint_binds_nothing(recipe: Recipe) -> None:
    prepare_run(recipe, resume=False)
    prepare_run(replace(recipe, optim=replace(recipe.optim, lr=1e-7)), resume=True)


def test_a_recipe_of_another_version_is_not_in_the_way(recipe: Recipe, tmp_path: Path) -> None:
    prepare_run(recipe, resume=False)
    saved(tmp_path, 4, tracked=4)
    (tmp_path / RESOLVED).write_text("unknown_section: {}\n")
    prepare_run(recipe, resume=True)


def test_a_policy_that_moved_is_the_same_policy(recipe: Recipe, tmp_path: Path) -> None:
    gone = replace(recipe, policy=replace(recipe.policy, path=str(tmp_path / "gone")))
    check_continues(gone, recipe, tmp_path)
    with pytest.raises(RecipeError, match=r"policy\.path"):
        check_continues(replace(recipe, policy=replace(recipe.policy, path=str(tmp_path))), recipe, tmp_path)


# ---- several machines -------------------------------------------------------------------------------------------


def test_torchrun_on_several_machines_needs_to_know_which_one(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    two = replace(recipe, stage="sft", trainer=replace(recipe.trainer, nodes=2))
    for name in ("MASTER_ADDR", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RecipeError, match=r"trainer\.nodes: 2, but MASTER_ADDR and NODE_RANK are not set"):
        rendezvous(two)
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("NODE_RANK", "1")
    assert rendezvous(two) == ["--nnodes=2", "--node-rank=1", "--master-addr=first", "--master-port=29500"]
    assert node_folder(two) == Path(two.output_dir) / "node_1" and node_folder(recipe) == Path(recipe.output_dir)


def test_a_port_that_is_taken_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    two = replace(recipe, stage="sft", trainer=replace(recipe.trainer, nodes=2))
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("NODE_RANK", "0")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(RecipeError, match=rf"MASTER_PORT: {taken.getsockname()[1]} is in use on this machine"):
            rendezvous(two)
    assert rendezvous(two)[1] == "--node-rank=0"
