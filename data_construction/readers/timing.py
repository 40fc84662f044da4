"""When a clip's frames are shown: by the time stamps of its video, else at the rate that the stanza says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_construction.problems import Problem
from data_construction.readers.stanza import SplitFiles
from rollout.errors import DataError
from rollout.video import split_frame_path, video_facts, video_times

RATE_TOLERANCE = 0.01
EVEN = 0.0015
"""Seconds by which stamps may miss a steady rate and still count as one: some containers round to milliseconds."""


@dataclass(frozen=True)
class Timing:
    """As a ``Clip`` has them: the mean rate or None, and (T,) seconds where that rate does not say them."""

    fps: float | None
    times: tuple[float, ...] = ()


def clip_timing(paths: Sequence[Path], files: SplitFiles) -> Timing:
    """Of a clip's frames. A video that is not there, or is damaged, says nothing here: reading frames names that."""
    inside = [split_frame_path(path) for path in paths]
    indices = [v[1] for v in inside if v is not None]
    if len(indices) < len(paths) or inside[0] is None or not Path(inside[0][0]).is_file():
        return Timing(files.fps)
    try:
        fps, stamps = video_facts(inside[0][0]).fps, video_times(inside[0][0])
    except DataError:
        return Timing(files.fps)
    if max(indices) >= len(stamps):
        return Timing(files.fps or fps)
    times = stamps[indices] - stamps[indices[0]]
    steps = set(np.diff(indices).tolist()) or {1}
    rate = fps / steps.pop() if fps and len(steps) == 1 and min(steps) > 0 else 0.0
    if rate and np.abs(times - np.arange(len(times)) / rate).max() <= EVEN:
        return Timing(rate)
    if len(times) < 2 or np.diff(times).min() <= 0:
        return Timing(files.fps or fps)
    return Timing((len(times) - 1) / float(times[-1]), tuple(round(float(t), 6) for t in times))


def rate_problem(path: Path, files: SplitFiles, clip: str) -> Problem | None:
    """A video whose frames are not those that the annotations count: another rate, or none that is steady."""
    inside = split_frame_path(path)
    if inside is None or files.video_fps is None:
        return None
    fps, times = video_facts(inside[0]).fps, video_times(inside[0])
    wanted = files.video_fps
    remedy = f"extract its frames at {wanted:g} a second"
    if fps is not None and abs(fps - wanted) > RATE_TOLERANCE * wanted:
        what = f"has {fps:.3g} frames a second, the annotations count {wanted:g}"
        return Problem("frame_rate", inside[0], what, clip, remedy=remedy)
    worst = float(np.abs(times - np.arange(len(times)) / (fps or wanted)).max())
    if worst > 0.5 / wanted:
        what = f"has frames at uneven times, up to {worst:.2f} s off {fps or wanted:.3g} a second that are counted"
        return Problem("frame_rate", inside[0], what, clip, remedy=remedy)
    return None
