"""From a data set on disk to its two training files: RL annotations and VTS-CoT traces."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_construction.atomic import write_json
from data_construction.cot.habits import drawn_instead
from data_construction.cot.plan import TraceSettings, plan_traces
from data_construction.cot.tracks import UNNAMED, InitialFrames, SceneObject, track
from data_construction.problems import Progress
from data_construction.processes import in_order
from data_construction.readers.dataset import Dataset
from data_construction.readers.files import read_json_shared
from data_construction.readers.records import VTSCoTRecord, rl_annotation
from rollout.errors import DataError
from rollout.types import Sample

NAMES_FILE = "synthetic_objects.json"


def write_training_files(
    dataset: Dataset,
    folder: Path,
    settings: TraceSettings,
    seed: int,
    progress: Progress | None = None,
    processes: int | None = None,
) -> int:
    """Write ``rl_annotations_<split>.json`` and ``vts_cot_<split>.json`` into ``folder``; returns the traces' number.

    One trace an expression; each depends on ``seed`` and its own sample only, so that files are the same whatever the
    number of ``processes`` (None: as many as pay). Raises DataError for bad data.
    """
    names, marks = read_names(dataset.root), read_marks(dataset.root)
    annotations: list[list[dict[str, Any]]] = []
    traces: list[dict[str, Any]] = []
    clips = dataset.clips()
    plan = partial(_plan_clip, dataset, names, marks, settings, seed)
    for done, (of_rewards, of_traces) in enumerate(in_order(plan, clips, processes)):
        if progress is not None:
            progress(done, len(clips), f"planning {dataset.split} traces")
        annotations += of_rewards
        traces += of_traces
    write_json(folder / f"rl_annotations_{dataset.split}.json", annotations)
    write_json(folder / f"vts_cot_{dataset.split}.json", traces)
    if progress is not None:
        progress(len(clips), len(clips), f"planning {dataset.split} traces")
    return len(traces)


def _plan_clip(
    dataset: Dataset,
    names: Mapping[str, Mapping[str, str]],
    marks: Mapping[str, str],
    settings: TraceSettings,
    seed: int,
    clip: str,
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """RL annotations and traces of one clip's expressions, as they are written."""
    objects = scene_objects(dataset, clip, names.get(clip, {}), marks)
    annotations: list[list[dict[str, Any]]] = []
    traces: list[dict[str, Any]] = []
    for expression in dataset.expressions(clip):
        sample = dataset.get(clip, expression.id)
        targets = [o.areas > 0 for o in objects if o.anno_id in expression.anno_ids]
        there = np.any(targets, axis=0) if targets else np.zeros(sample.clip.num_frames, dtype=np.bool_)
        annotations.append([rl_annotation(sample, there)])
        traces.append(trace_sample(sample, objects, settings, seed).to_dict())
    return annotations, traces


def trace_sample(sample: Sample, objects: list[SceneObject], settings: TraceSettings, seed: int) -> VTSCoTRecord:
    """One trace under ``settings``, with a random stream of its own."""
    rng = np.random.default_rng([seed, zlib.crc32(sample.id.encode())])
    initial = InitialFrames.evenly(sample.clip.num_frames, settings.temporal_frames, settings.spatial_frames)
    called = objects
    if settings.named_kinds and sample.expression.kind not in settings.named_kinds:
        objects = [replace(o, name=UNNAMED) for o in objects]
    noisy_kind = not settings.noise_kinds or sample.expression.kind in settings.noise_kinds
    record = plan_traces(
        sample,
        objects,
        initial,
        settings.frames_per_turn,
        rng,
        turns=settings.turns,
        recover=settings.recover,
        scene=settings.scene,
        noise=settings.noise if noisy_kind else 0.0,
        prompts=settings.prompts,
        describe_target=settings.describe_target,
        habits=settings.habits,
    )
    return replace(record, mask_anno_id=drawn_instead(record.anno_id, called, settings.wrong_twin, rng))


def scene_objects(
    dataset: Dataset, clip: str, names: Mapping[str, str], marks: Mapping[str, str] | None = None
) -> list[SceneObject]:
    """Tracks of every object of a clip that is in ``names`` (anno_id: name) or asked for; ``marks`` by anno_id."""
    asked = [a for e in dataset.expressions(clip) for a in e.anno_ids]
    ids = tuple(dict.fromkeys([*names, *asked]))
    masklets = dataset.masklets(clip, ids)
    if masklets is None:
        raise DataError(f"{dataset.root}: clip {clip} has no masks to plan traces from; split {dataset.split}")
    tracks = [track(a, names.get(a, UNNAMED), masklets, i) for i, a in enumerate(ids)]
    return [replace(t, mark=marks.get(t.anno_id, "")) for t in tracks] if marks else tracks


def read_marks(root: Path) -> dict[str, str]:
    """``{anno_id: "barred"}`` of a synthetic data set whose objects have marks; empty for any other."""
    path = root / NAMES_FILE
    return {a: d["mark"] for a, d in (read_json_shared(path) if path.is_file() else {}).items() if "mark" in d}


def read_names(root: Path) -> dict[str, dict[str, str]]:
    """``{clip: {anno_id: "red circle"}}`` of a synthetic data set; empty for any other."""
    path = root / NAMES_FILE
    names: dict[str, dict[str, str]] = {}
    for anno_id, d in (read_json_shared(path) if path.is_file() else {}).items():
        names.setdefault(d["video"], {})[anno_id] = d.get("name") or f"{d['color']} {d['shape']}"
    return names
