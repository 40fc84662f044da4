"""The documentation's site: it builds with every link whole, its tables are the files', its code runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rollout.types import Sample
from tests.conftest import script_of_docs

ROOT = Path(__file__).parents[1]
EXTEND = ROOT / "docs" / "extend.md"
MOST_LINES = 20


def blocks() -> dict[str, str]:
    """Section -> its one block of code."""
    parts = re.split(r"^## ", EXTEND.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for part in parts:
        (code,) = re.findall(r"```(?:python|yaml)\n(.*?)```", part, re.DOTALL)
        found[part.partition("\n")[0]] = code
    return found


@pytest.fixture
def sample(tiny_data: Path) -> Sample:
    from data_construction.readers import open_dataset

    return next(s for s in open_dataset("revos", tiny_data, "train").samples() if s.expression.anno_ids)


def test_each_takes_less_than_twenty_lines() -> None:
    found = blocks()
    assert [*found] == ["A reward", "An environment", "A data set", "A benchmark", "A segmenter"]
    assert all(len(code.splitlines()) < MOST_LINES for code in found.values())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert found["A reward"] in readme, "the README shows the same reward"


def test_the_reward_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    import rewards.registry as registry

    registry.reward_names()  # found once a process: not while the registry is another
    for name, value in vars(registry).items():
        if isinstance(value, dict) and name.startswith("_") and not name.startswith("__"):
            monkeypatch.setattr(registry, name, dict(value))
    space: dict[str, Any] = {}
    exec(blocks()["A reward"], space)
    from types import SimpleNamespace

    assert space["brevity"](SimpleNamespace(turns=["a", "b"])) == 0.5
    assert "brevity" in registry.reward_names()


def test_the_environment_shows_two_frames(monkeypatch: pytest.MonkeyPatch, sample: Sample) -> None:
    import rollout.environment as environment

    environment.environment_names()  # as above
    monkeypatch.setattr(environment, "_ENVIRONMENTS", dict(environment._ENVIRONMENTS))
    exec(blocks()["An environment"], {"__name__": "first_look"})
    made = environment.make_environment("first_look", sample, {"temporal_frames": 9, "spatial_frames": 2}, 32)
    assert "first_look" in environment.environment_names()
    messages = made.begin()
    assert isinstance(messages, list)
    from rollout.messages import FramePart

    shown = [p for m in messages for p in m.parts if isinstance(p, FramePart)]
    assert len(shown) == 2 + 2


def test_the_data_set_and_the_benchmark_open(tiny_data: Path, tmp_path: Path) -> None:
    from data_construction.readers import open_dataset
    from eval.benchmarks import load_benchmark

    (tmp_path / "mine.yaml").write_text(blocks()["A data set"])
    ours = [s.id for s in open_dataset(str(tmp_path / "mine.yaml"), tiny_data, "train").samples()]
    assert ours == [s.id for s in open_dataset("revos", tiny_data, "train").samples()]
    (tmp_path / "bench.yaml").write_text(blocks()["A benchmark"])
    assert len(list(load_benchmark(tmp_path / "bench.yaml").samples(tiny_data))) > 0


def test_the_segmenter_scores(sample: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"sample": sample}
    exec(blocks()["A segmenter"], space)
    assert len(space["scores"].rles[0]) == 3 and "counts" in capsys.readouterr().out


def test_the_tables_are_those_of_the_results(performance: ModuleType) -> None:
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(), "run `python docs/performance.py`"
    drawn = performance.pictures()
    assert drawn == {f: f.read_text(encoding="utf-8") for f in performance.PICTURE.parent.glob("scaling_*.svg")}


def test_things_of_one_name_in_a_list_are_all_in_the_table(performance: ModuleType) -> None:
    rows = [{"name": "a", "ms": 1.5}, {"name": "b", "ms": 2.5}, {"name": "a", "ms": 3.5}]
    assert list(performance.numbers({"kernels": rows})) == [
        ("kernels / a / ms", "1.5"),
        ("kernels / b / ms", "2.5"),
        ("kernels / a #2 / ms", "3.5"),
    ]


def test_the_curves_are_those_of_the_study() -> None:
    script = script_of_docs("learning_curves")
    for file, drawn in script.pictures().items():
        assert file.read_text(encoding="utf-8") == drawn, "run `python docs/learning_curves.py`"
        arms = json.loads((script.RESULTS / f"{file.stem}.json").read_text(encoding="utf-8"))["curves"]
        assert drawn.count("<polyline") == 2 + len({key.split("/")[0] for key in arms})
    assert script.smooth([0.0, 3.0, 0.0]) == [1.0, 1.0, 1.0]


def test_every_result_has_a_command_whose_options_there_are(performance: ModuleType) -> None:
    assert {f.stem for f in performance.RESULTS.glob("*.json")} <= set(performance.COMMANDS)
    for command in performance.COMMANDS.values():
        name, *words = command.split()
        source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        missing = [w for w in (*words, "--json") if w.startswith("--") and f'"{w}"' not in source]
        assert not missing, f"{name} has no {missing}"
        for key in (words[i + 1] for i, word in enumerate(words) if word in ("--set", "--rows-set")):
            assert f"`{key.split('=')[0]}`" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), key


def test_the_site_builds_and_every_link_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    index = (tmp_path / "site" / "index.html").read_text()
    assert "pictures/view_group_dark.png" in index and (tmp_path / "site" / "viewer.html").is_file()
    assert "fonts.googleapis.com" not in index
