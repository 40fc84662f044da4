"""Traces with anything anywhere: every step ends, and each one is verified, rejected or set aside, never a crash."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from data_construction.export import export
from data_construction.traces import Sources
from data_construction.verify import verify
from eval.traces import write_gallery
from tests.data_construction.trace_files import Line, boxed, planned, read, write

ODD: list[Any] = [
    None, -1, 10**30, 1.5, True, "", "x" * 5000, "<think>", "[SEG]<image>", "\U0001f3a5 \u202e é",
    "\ud800", [], [[]], {},
    {"a": 1}, [1, "2", None], "frame 3 " * 200, '{"keyframe_timestamp": 1e999}', "</answer><select>",
]  # fmt: skip
FIXED = ("id", "dataset", "split", "expression_id")


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a nested value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [p for key in keys for p in ((*path, key), *spots(value[key], (*path, key)))]


def damaged(line: Line, rng: random.Random) -> Line:
    line = copy.deepcopy(line)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([p for p in spots(line) if p[0] not in FIXED])
        holder = line
        for key in path[:-1]:
            holder = holder[key]
        if rng.random() < 0.3 and isinstance(holder, dict):
            del holder[path[-1]]
        elif isinstance(holder[path[-1]], str) and len(holder[path[-1]]) > 3 and rng.random() < 0.5:
            at = rng.randrange(len(holder[path[-1]]))
            holder[path[-1]] = holder[path[-1]][:at] + str(rng.choice(ODD)) + holder[path[-1]][at + rng.randint(0, 9) :]
        else:
            holder[path[-1]] = rng.choice(ODD)
    return line


@pytest.fixture(scope="module")
def source(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound, rng = planned(synthetic) + boxed(synthetic, "test"), random.Random(0)
    lines = [{**damaged(rng.choice(sound), rng), "id": f"fuzz/{n}"} for n in range(400)]
    return write(tmp_path_factory.mktemp("fuzz") / "traces.jsonl", [sound[0], *lines])


def test_verify_judges_every_one(source: Path, synthetic: Path, tmp_path: Path) -> None:
    report = asyncio.run(verify(source, tmp_path / "out", Sources.parse([str(synthetic)])))
    rows = read(tmp_path / "out/verified.jsonl") + read(tmp_path / "out/rejected.jsonl")
    assert report.total == len(rows) == 401 and report.verified > 10
    assert len(report.rejected) >= 8 and all(r["reason"] for r in rows if r["status"] == "rejected")
    page = write_gallery(tmp_path / "out", tmp_path / "page.html", Sources.parse([str(synthetic)]), limit=60)
    assert page.shown == 60 and (tmp_path / "page.html").stat().st_size > 100_000


@pytest.mark.parametrize("to", ["verl", "sharegpt", "vts_cot"])
def test_export_writes_or_names_every_one(to: str, source: Path, synthetic: Path, tmp_path: Path) -> None:
    report = export(source, tmp_path / "out", Sources.parse([str(synthetic)]), to, images="link")
    assert report.written + report.rejected + len(report.set_aside) == 401 and report.written > 100
    if to != "verl":
        assert len(json.loads(report.files[0].read_text())) == report.written
