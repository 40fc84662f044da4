"""Conversations whose frames cannot be read: each costs itself, as a dialogue of reinforcement does, and no more.

In their place stands a row of two tokens without pictures, which no loss sees. Each is told in the log, written down
where reinforcement's failed dialogues are, and counted by the same rule: too many in one step end the run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from rollout.errors import DataError
from rollout.frames import load_frame
from rollout.messages import FramePart
from rollout.types import Clip, Episode, Sample, StopReason
from verl_ext.inference.failures import FAILED_SHARE, check_failed, remember_failure
from verl_ext.policy.pictures import process_store
from verl_ext.seg.episodes import non_tensor_rows

logger = logging.getLogger(__name__)
UNREADABLE = "unreadable"
"""In a stand-in's episode: why."""


class FrameCheck:
    """Reads what a conversation's pass will read; of each frame once a process."""

    def __init__(self) -> None:
        self._whole: set[str] = set()

    def look(self, clip: Clip, shown: Sequence[FramePart], episode: Mapping[str, Any]) -> None:
        """The frames that are shown, and those that masks are drawn on.

        A loader without processes of its own reads where the engine does, who then finds the pictures in its store.

        Raises:
            DataError: one cannot be read; names clip, frame and file.
        """
        if get_worker_info() is None:
            process_store().of_clip(clip, shown)
            self._whole.update(clip.frames[part.frame] for part in shown)
        drawn_on = {*episode["spatial_frames"], *(int(turn["keyframe"]) for turn in episode["turns"])}
        for t in sorted({part.frame for part in shown} | drawn_on):
            if clip.frames[t] not in self._whole:
                load_frame(clip, t)
                self._whole.add(clip.frames[t])


def stand_in(sample: Sample, error: DataError, token: int) -> dict[str, Any]:
    """A data set's row that trains nothing. ``token``: any that no picture needs."""
    logger.warning("left out: the conversation about %s: %s", sample.id, error)
    silent = Episode([], StopReason.REFUSED_CLIP, (), sample.clip.num_frames)
    places = torch.arange(2)
    return {
        "input_ids": torch.full((2,), token, dtype=torch.long),
        "position_ids": places.expand(4, 2).clone(),
        "loss_mask": torch.zeros(2, dtype=torch.long),
        "multi_modal_inputs": {},
        "sample": sample.to_dict(),
        "episode": asdict(silent) | {"stop": silent.stop.value, UNREADABLE: str(error)},
    }


def check_step(data: Any, out: Path, step: int, group: Any, device: Any) -> int:
    """How many conversations of a step, over all processes, are stand-ins; a collective call.

    Raises:
        WorkerError: too many of them, see :func:`verl_ext.inference.failures.check_failed`; in every process.
    """
    episodes = non_tensor_rows(data, "episode")
    for sample, episode in zip(non_tensor_rows(data, "sample"), episodes, strict=True):
        if why := episode.get(UNREADABLE):
            remember_failure(out, step, Sample.from_dict(sample).id, DataError(why))
    missing, expected = _lost_of(episodes, group, device)
    return check_failed(out, step, expected, expected - missing, "conversations")


def _lost_of(episodes: Sequence[Mapping[str, Any]], group: Any, device: Any) -> tuple[int, int]:
    """Stand-ins and rows, over all processes."""
    counts = torch.tensor([sum(UNREADABLE in episode for episode in episodes), len(episodes)], device=device)
    torch.distributed.all_reduce(counts, group=group)
    missing, expected = counts.tolist()
    return missing, expected


class HeldOutBatches:
    """verl's loader of held-out batches. One of stand-ins alone is left out: it has no token to take a mean over.

    What a loader's process sees is a share of the data; here all of an evaluation is counted, over all processes.
    """

    def __init__(self, loader: Any, group: Any, device: Any) -> None:
        self._loader, self._group, self._device = loader, group, device

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Raises DataError, once all are read, where too little is left to judge by."""
        lost = total = 0
        for batch in self._loader:
            missing, expected = _lost_of(non_tensor_rows(batch, "episode"), self._group, self._device)
            lost, total = lost + missing, total + expected
            if missing < expected:
                yield batch
        if lost > FAILED_SHARE * total:
            raise DataError(
                f"val: {lost} of {total} conversations cannot be read; the log names their frames: restore them, or "
                "name other held-out data"
            )


def check_held_out(lost: int, total: int, error: DataError) -> None:
    """Of a held-out data set as far as it was read. Raises DataError where too little of it is left to judge by."""
    if lost > FAILED_SHARE * total:
        raise DataError(f"val: {lost} of {total} conversations cannot be read; the last: {error}")
