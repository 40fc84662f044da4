"""Jobs for tests: the real methods on small data, against a server on loopback."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_construction.cot.released import write_released
from data_construction.cot.seed import SeedMethod, SeedSettings
from data_construction.cot.vts import VTSMethod
from data_construction.cot.vts_plan import VTSSettings
from data_construction.generate import Job, Source
from data_construction.readers import open_dataset
from data_construction.vlm import ClientSettings
from rollout.environments.keyframe_exploration import ExplorationSettings

SMALL = ExplorationSettings(
    temporal_frames=4, spatial_frames=2, frames_per_turn=3, temporal_budget=4, spatial_budget=8, keyframe_budget=16
)


def client_settings(url: str, **more: Any) -> ClientSettings:
    return replace(ClientSettings("m", url, timeout=30.0, backoff=0.01, concurrency=4), **more)


def seed_job(root: Path, out: Path, url: str, source: dict[str, Any] | None = None, **client: Any) -> Job:
    given = {"wanted": lambda e: bool(e.anno_ids), "per_clip": 10, **(source or {})}
    settings = SeedSettings(frames=4, side=56, max_chars=200)
    method = SeedMethod(Source(open_dataset("revos", root, "train"), **given), settings)
    return Job(method, asdict(settings), out, client_settings(url, **client), out / "cache")


def vts_job(
    root: Path,
    out: Path,
    url: str,
    source: dict[str, Any] | None = None,
    settings: VTSSettings | None = None,
    **client: Any,
) -> Job:
    settings = settings or VTSSettings(SMALL, max_chars=200)
    method = VTSMethod(Source(open_dataset("revos", root, "train"), **(source or {})), settings)

    def finish(folder: Path) -> None:
        write_released(folder / "traces.jsonl", folder)

    return Job(method, asdict(settings), out, client_settings(url, **client), out / "cache", finish=finish)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(out: Path) -> dict[str, bytes]:
    """What must not depend on how the job went."""
    names = ("job.json", "traces.jsonl", "failed.jsonl", "vts_cot.json", "rl_annotations.json")
    return {name: (out / name).read_bytes() for name in names if (out / name).exists()}
