"""The quickstart's summary compares two evaluations of RL, or says that there is only one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollout.errors import DataError
from verl_ext.quickstart.settings import Layout, QuickstartSettings
from verl_ext.quickstart.summary import summarise


def test_one_evaluation_of_rl_is_no_gain_of_zero(tmp_path: Path) -> None:
    """A run that was killed before its last evaluation had "first" and "last" in one row."""
    layout = Layout(tmp_path)
    layout.grpo.mkdir()
    (layout.grpo / "held_out.jsonl").write_text(json.dumps({"step": 0, "rewards": {"a": 1.0}}) + "\n")
    with pytest.raises(DataError, match="evaluations of step 0 alone"):
        summarise(layout, {}, QuickstartSettings())
