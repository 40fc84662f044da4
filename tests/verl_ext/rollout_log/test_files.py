"""Step files: what is written comes back, and what was damaged says so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rollout.types import Action, Clip, Grounding, StopReason
from verl_ext.recipe.training import KeepRolloutsRecipe
from verl_ext.rollout_log import (
    DamagedStep,
    KeptGroup,
    KeptRollout,
    KeptTurn,
    LogProbs,
    RolloutKeeper,
    read_group,
    read_header,
    step_files,
    write_step,
)
from verl_ext.rollout_log.files import forget_steps_after

RLE_A = {"size": [4, 6], "counts": "04d0"}
NUMBERS = LogProbs(12, -0.5, -3.0, 0.7, 0.01, 0.002)


def group(name: str = "clip/0", rewards: tuple[float, ...] = (1.0, 2.5), text: str = "the cat") -> KeptGroup:
    turn = KeptTurn("<think>a</think> héllo", Action.SELECT, Grounding(1, 3, 2), 1, (0, 1, 1), {0: RLE_A, 1: RLE_A})
    last = KeptTurn("nonsense", None, None, 2, (2,))
    rollouts = tuple(
        KeptRollout(StopReason.BAD_ACTION, (turn, last), {"total": r}, {"video": 0.5}, r - 1, NUMBERS, (3, 4))
        for r in rewards
    )
    clip = Clip("clip", ("a.jpg", "b.jpg", "c.jpg"), 4, 6, 5.0)
    truth = {0: RLE_A, 1: None, 2: RLE_A}
    return KeptGroup(name, text, "motion", clip, (0, 2), (True, False, True), truth, rollouts)


def test_a_step_comes_back_as_it_was_written(tmp_path: Path) -> None:
    groups = [group("clip/0"), group("clip/é", (0.0,), "ein Kätzchen\nmit Umbruch")]
    path = write_step(tmp_path, 12, groups)
    assert path == tmp_path / "rollouts" / "step_000012.jsonl"
    (file,) = step_files(tmp_path)
    header = read_header(file, tmp_path)
    assert header["step"] == 12 and [g["sample"] for g in header["groups"]] == ["clip/0", "clip/é"]
    assert header["groups"][0]["reward"] == [1.0, 2.5] and header["groups"][0]["stop"] == ["bad_action"] * 2
    assert header["groups"][1]["turns"] == [2] and header["groups"][1]["text"] == groups[1].text
    assert [read_group(file, header, i, tmp_path) for i in (0, 1)] == groups
    assert len(path.read_text().splitlines()) == 3 and all(json.loads(line) for line in path.read_text().splitlines())


def test_bytes_counts_and_numbers_that_are_not_finite_become_json(tmp_path: Path) -> None:
    g = group(rewards=(math.nan,))
    turn = KeptTurn("x", None, None, 0, (), {0: {"size": [4, 6], "counts": b"04d0"}})
    g = KeptGroup(**{**vars(g), "rollouts": (KeptRollout(**{**vars(g.rollouts[0]), "turns": (turn,)}),)})
    path = write_step(tmp_path, 1, [g])
    assert "NaN" not in path.read_text()
    file = step_files(tmp_path)[0]
    back = read_group(file, read_header(file, tmp_path), 0, tmp_path).rollouts[0]
    assert back.rewards["total"] is None and math.isnan(back.advantage) and back.turns[0].masks[0] == RLE_A


def test_a_step_done_again_replaces_the_first_and_later_ones_are_forgotten(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_step(tmp_path, step, [group()])
    write_step(tmp_path, 2, [group("other/1")])
    file = step_files(tmp_path)[1]
    assert [g["sample"] for g in read_header(file, tmp_path)["groups"]] == ["other/1"]
    forget_steps_after(tmp_path, 1)
    assert [f.step for f in step_files(tmp_path)] == [1]


@pytest.mark.parametrize("kept", [0, 20, -5])
def test_a_half_written_file_says_so(tmp_path: Path, kept: int) -> None:
    path = write_step(tmp_path, 7, [group("a/0"), group("b/0")])
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    (file,) = step_files(tmp_path)
    if kept >= 0:
        with pytest.raises(DamagedStep, match=r"step_000007.jsonl: its first line cannot be read .*(empty|cut off)"):
            read_header(file, tmp_path)
        return
    header = read_header(file, tmp_path)
    assert read_group(file, header, 0, tmp_path).sample == "a/0"  # what is whole is still there
    with pytest.raises(DamagedStep, match=r"the line of group 1 is cut off"):
        read_group(file, header, 1, tmp_path)


@pytest.mark.parametrize("line", ["[]", '{"format":99,"step":1,"groups":[]}', '{"format":1,"groups":[{}]}', "\x00"])
def test_a_line_of_something_else_is_no_traceback(tmp_path: Path, line: str) -> None:
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000001.jsonl").write_text(line + "\n")
    with pytest.raises(DamagedStep, match="its first line cannot be read"):
        read_header(step_files(tmp_path)[0], tmp_path)


def test_a_link_out_of_the_run_is_refused(tmp_path: Path) -> None:
    secret = write_step(tmp_path / "elsewhere", 1, [group()])
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    (run / "rollouts" / "step_000001.jsonl").symlink_to(secret)
    with pytest.raises(DamagedStep, match="refused, it is a link that leads out of"):
        read_header(step_files(run)[0], run)
    (run / "rollouts" / "step_000002.jsonl").symlink_to(run / "nowhere")
    with pytest.raises(DamagedStep, match="is gone"):
        read_header(step_files(run)[1], run)


def test_which_groups_are_kept(tmp_path: Path) -> None:
    prompts = [(f"clip{i}/0", f"uid{i}") for i in range(16)]
    keeper = RolloutKeeper(tmp_path, KeepRolloutsRecipe(every=3, groups=2))
    assert not keeper.choose(1, prompts) and not keeper.choose(2, prompts)
    chosen = keeper.choose(3, prompts)
    assert len(chosen) == 2 and keeper.choose(6, list(reversed(prompts))) == chosen
    other_run = [(name, f"other{i}") for i, (name, _) in enumerate(prompts)]
    assert {name for name, _ in keeper.choose(3, other_run)} == {name for name, _ in chosen}
    assert len(keeper.choose(3, [("a/0", "1"), ("a/0", "2"), ("a/0", "3")])) == 2  # one prompt, three groups
    assert not RolloutKeeper(tmp_path, KeepRolloutsRecipe(every=0)).choose(3, prompts)


def test_a_logger_that_fails_loses_nothing_on_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def publish(step: int, groups: object) -> None:
        seen.append(step)
        raise OSError("no network")

    keeper = RolloutKeeper(tmp_path, KeepRolloutsRecipe(log_every=2), publish)
    for step in (1, 2):
        keeper.write(step, lambda: [group()])
    keeper.wait()
    assert seen == [2] and [f.step for f in step_files(tmp_path)] == [1, 2]
    assert "step 2: its rollouts could not be logged" in caplog.text


def test_a_disk_that_refuses_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rollouts").write_text("a file where the folder should be")
    keeper = RolloutKeeper(tmp_path, KeepRolloutsRecipe())
    keeper.write(4, lambda: [group()])
    keeper.wait()
    assert "step 4: its rollouts could not be kept" in caplog.text
    (tmp_path / "rollouts").unlink()
    keeper.write(5, lambda: [group()])
    keeper.wait()
    assert [f.step for f in step_files(tmp_path)] == [5] and keeper.seconds > 0
