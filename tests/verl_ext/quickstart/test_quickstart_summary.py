"""The quickstart's summary compares two evaluations of RL, or says that there is only one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.results.results_file import RESULTS_FILE, ResultsFile
from rollout.errors import DataError
from tests.eval.clips import record, samples
from verl_ext.quickstart.exploring import exploring_settings
from verl_ext.quickstart.report import notes
from verl_ext.quickstart.run import settings_facts
from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.quickstart.summary import first_policy, greedy_format, summarise, taught_figures
from verl_ext.run.gains import paired_gain


def test_one_evaluation_of_rl_is_no_gain_of_zero(tmp_path: Path) -> None:
    """A run that was killed before its last evaluation had "first" and "last" in one row."""
    layout = Layout(tmp_path)
    layout.grpo.mkdir()
    (layout.grpo / "held_out.jsonl").write_text(json.dumps({"step": 0, "rewards": {"a": 1.0}}) + "\n")
    with pytest.raises(DataError, match="evaluations of step 0 alone"):
        summarise(layout, {}, QuickstartSettings())


def test_the_format_of_greedy_dialogues_is_that_of_their_texts(tmp_path: Path) -> None:
    """``format_rl`` is the share of evaluated dialogues that the strict-format reward would pay."""
    sample, *_ = samples(tmp_path)
    good = record(sample)
    look, done = good.turns
    with ResultsFile(tmp_path / RESULTS_FILE) as results:
        for i, turns in enumerate(((look, done), (look,), (replace(done, text="no"),))):
            results.append(replace(good, expression_id=str(i), turns=turns))
    assert greedy_format(tmp_path) == pytest.approx(1 / 3, abs=1e-4)


def test_the_gain_on_what_was_taught_leaves_the_other_kinds_out() -> None:
    def scores(*rows: tuple[str, str, float]) -> SimpleNamespace:
        return SimpleNamespace(
            expressions=[SimpleNamespace(clip=c, expression_id="0", kind=k, jf=jf) for c, k, jf in rows]
        )

    before = scores(("a", "attribute", 90.0), ("b", "attribute", 80.0), ("c", "motion", 50.0))
    after = scores(("a", "attribute", 91.0), ("b", "attribute", 83.0), ("c", "motion", 0.0))
    found = taught_figures({"cold_start": before, "rl": after}, ("attribute",))
    assert found == {
        "jf_taught_cold_start": 85.0,
        "jf_taught_rl": 87.0,
        "jf_taught_gain": 2.0,
        "jf_taught_gain_se": 1.0,
    }
    said = notes({**RL_FIGURES, **found})[0]
    assert "+0.5 ± 2.0 over the same expressions, +2.0 ± 1.0 on the kinds it was taught." in said
    nothing = taught_figures({"cold_start": before, "rl": after}, ("count",))
    assert set(nothing.values()) == {None} and "taught" not in notes({**RL_FIGURES, **nothing})[0]


def test_one_prompt_alone_has_a_gain_without_an_error() -> None:
    """NaN stood in ``summary.json``, which is no JSON; nothing is claimed of one prompt."""
    found = paired_gain({"a": 1.0}, {"a": 1.5, "b": 9.0}, "reward")
    assert json.loads(json.dumps(found, allow_nan=False)) == {"reward_gain": 0.5, "reward_gain_se": None}
    said = notes({**RL_FIGURES, **found})[0]
    assert "a gain of +0.50 over the same prompts" in said and "nothing is claimed" in said


def test_a_page_says_what_its_world_leaves_to_find() -> None:
    said = {world: " ".join(notes({**RL_FIGURES, "world": world})) for world in ("shapes", "badges", "twins")}
    assert "leave reinforcement little" in said["shapes"] and "a random disc 24" in said["badges"]
    assert "docs/learning.md" not in said["twins"]


RL_FIGURES = {
    "format_cold_start": 0.99,
    "format_rl": 1.0,
    "format_sampled_first": 0.7,
    "format_sampled_last": 0.95,
    "reward_first": 2.4,
    "reward_last": 2.63,
    "reward_gain": 0.23,
    "reward_gain_se": 0.1,
    "jf_gain": 0.5,
    "jf_gain_se": 2.0,
}


@pytest.mark.parametrize(("error", "verdict"), [(0.10, "more than two standard errors"), (0.12, "nothing is claimed")])
def test_a_gain_within_chance_is_not_claimed(error: float, verdict: str) -> None:
    said = notes({**RL_FIGURES, "reward_gain_se": error})[0]
    assert verdict in said and "99 % -> 100 % greedy, 70 % -> 95 % sampled" in said


def test_a_policy_that_has_read_is_not_called_untrained() -> None:
    settings = [settings_facts(QuickstartSettings()), settings_facts(exploring_settings())]
    assert [first_policy({"settings": s}) for s in settings] == ["untrained", "warmed up"]
    assert first_policy({}) == "untrained", "a summary of before there was such a warm-up"
