"""``videoseg report`` of any training run: a page from its metrics, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rollout.errors import DataError
from verl_ext.cli.main import app
from verl_ext.quickstart.report import write_report
from verl_ext.recipe import load_recipe, save_resolved
from verl_ext.run.training_report import step_row

RECIPES = Path(__file__).parents[3] / "recipes"


def write_lines(path: Path, rows: list[dict[str, Any]], torn: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


@pytest.fixture
def reinforced(tmp_path: Path) -> Path:
    """A run that is at its fourth step: three are folded, one is live, one is being written."""
    out = tmp_path / "grpo"
    save_resolved(load_recipe(RECIPES / "videoseg_o3/grpo_2b.yaml", ["name=mine"]), out / "resolved.yaml")

    def step(n: int) -> dict[str, Any]:
        timers = {"timing_s/gen": 3.0, "timing_s/old_log_prob": 2.0, "timing_s/pool": 0.5, "timing_s/step": 60.0}
        data = {"reward/mean": n / 2, "reward/mask_iou": 0.1 * n, "stop/answered": 1.0, "actor/kl_loss": 0.01 * n}
        return {"step": n, "data": data | timers}

    write_lines(out / "metrics.jsonl", [{"step": 0, "data": {"val/jf": 40.0}}, step(1), step(2), step(3)])
    write_lines(out / "metrics.live.jsonl", [step(4)], torn='{"step": 5, "da')
    rows = [
        {"step": s, "val/jf": 40.0 + s, "val/jf/<b>kind</b>": 30.0 + s, "val/reward/mean": s / 4,
         "rewards": {"a/1": s / 4, "b/1": s / 2}}
        for s in (0, 4)
    ]  # fmt: skip
    write_lines(out / "held_out.jsonl", rows)
    return out


def test_a_reinforced_run_shows_rewards_held_out_clips_and_phases(reinforced: Path) -> None:
    page = write_report(reinforced, reinforced / "report.html").read_text()
    figures = ("0.50 → 2.00", "+1.50 ± 0.50", "40.0 → 44.0", "4.0 min")
    for said in (*figures, "mine: grpo", "mask iou", "Why episodes ended"):
        assert said in page, said
    for phase in ("rollout", "old log-probs", "pool"):
        assert f'<th scope="row">{phase}</th>' in page
    assert "<b>kind</b>" not in page and "&lt;b&gt;kind&lt;/b&gt;" in page  # names come from files
    assert "trainer.prompts per step" in page  # the recipe is the record
    assert "Losses</h2>" not in page


def test_a_supervised_run_shows_its_losses(tmp_path: Path) -> None:
    rows = [{"step": n, "data": {"train/loss": 2.0 / n, "lm": [[1.0 / n]], "dice": [[0.5]]}} for n in (1, 2, 4)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    page = write_report(tmp_path, tmp_path / "page.html").read_text()
    assert "2.00 → 0.50" in page and "mask dice" in page and "Losses</h2>" in page
    assert "Reinforcement" not in page and "Held-out clips" not in page


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics.jsonl: no metrics; .* is not the folder of a finished quickstart"):
        write_report(tmp_path, tmp_path / "report.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {"train/loss": 1.0}}\n')
    (tmp_path / "held_out.jsonl").write_text('{"step": 0}\n{"st')
    with pytest.raises(DataError, match=r"held_out.jsonl: line 2 or before is not JSON"):
        write_report(tmp_path, tmp_path / "report.html")


def test_the_command_takes_a_runs_folder(reinforced: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(reinforced)])
    assert result.exit_code == 0, result.output
    assert (reinforced / "report.html").is_file()


def test_the_pools_time_is_taken_out_of_the_states() -> None:
    data = {"timing_s/old_log_prob": 2.0, "timing_s/pool": 0.5, "timing_s/step": 9.0, "actor/kl_loss": [[0.25]]}
    row = step_row({"step": 3, "data": data | {"note": "text"}})
    assert row == {"step": 3.0, "kl": 0.25, "seconds/seg_states": 1.5, "seconds/pool": 0.5}
