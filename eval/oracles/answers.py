"""The oracles by name: which object each takes for the one asked for. A new one is one function under ``@oracle``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.oracles.clips import MarkedClip
from eval.oracles.reader import TrainedReader
from eval.oracles.settings import OracleSettings
from rollout.frames import evenly_spaced

Chosen = int | None
"""One of the clip's objects; None predicts nothing."""


@dataclass(frozen=True)
class Asked:
    """One expression, and all that an oracle may use."""

    clip: MarkedClip
    mark: str
    readers: dict[str, TrainedReader]
    """By budget: ``low_res``, ``spatial``, ``keyframe``."""
    settings: OracleSettings
    rng: np.random.Generator

    def read(self, evidence: NDArray[np.float32]) -> int:
        """The object whose (K, M) evidence speaks most for the mark asked for; a coin where nothing speaks."""
        column = evidence[:, self.readers["keyframe"].marks.index(self.mark)]
        return int(self.rng.choice(np.flatnonzero(column == column.max())))

    def at_keyframe(self, frame: int) -> int:
        return self.read(self.readers["keyframe"].log_probs(self.clip, [frame]))


Oracle = Callable[[Asked], Chosen]
ORACLES: dict[str, Oracle] = {}


def oracle(name: str) -> Callable[[Oracle], Oracle]:
    """Register an oracle under its name."""

    def register(answer: Oracle) -> Oracle:
        ORACLES[name] = answer
        return answer

    return register


@oracle("ground_truth_keyframe")
def ground_truth_keyframe(asked: Asked) -> Chosen:
    """The middle of the legible frames, shown at the keyframe's budget."""
    return asked.at_keyframe(asked.clip.middle)


@oracle("random_keyframe")
def random_keyframe(asked: Asked) -> Chosen:
    return asked.at_keyframe(int(asked.rng.integers(asked.clip.clip.num_frames)))


@oracle("middle_keyframe")
def middle_keyframe(asked: Asked) -> Chosen:
    return asked.at_keyframe(asked.clip.clip.num_frames // 2)


@oracle("one_turn")
def one_turn(asked: Asked) -> Chosen:
    """The first message alone; it is even told which of its frames are legible."""
    s, last = asked.settings, asked.clip.clip.num_frames - 1
    shown = {"low_res": evenly_spaced(0, last, s.low_res_frames), "spatial": evenly_spaced(0, last, s.spatial_frames)}
    legible = {name: [t for t in frames if t in asked.clip.legible] for name, frames in shown.items()}
    return asked.read(np.sum([asked.readers[n].log_probs(asked.clip, f) for n, f in legible.items()], axis=0))


@oracle("keyframe_at_low_res")
def keyframe_at_low_res(asked: Asked) -> Chosen:
    """All legible frames, but at the temporal frames' budget."""
    return asked.read(asked.readers["low_res"].log_probs(asked.clip, asked.clip.legible))


@oracle("keyframe_at_spatial")
def keyframe_at_spatial(asked: Asked) -> Chosen:
    """All legible frames, but at the spatial frames' budget."""
    return asked.read(asked.readers["spatial"].log_probs(asked.clip, asked.clip.legible))


@oracle("random_object")
def random_object(asked: Asked) -> Chosen:
    return int(asked.rng.integers(len(asked.clip.marks)))


@oracle("largest_object")
def largest_object(asked: Asked) -> Chosen:
    """By visible pixels over all frames."""
    from data_construction.cot.runs import area_and_centre

    rles = asked.clip.masklets.rles
    return int(np.argmax([sum(area_and_centre(r)[0] for r in masklet if r is not None) for masklet in rles]))


@oracle("nothing")
def nothing(asked: Asked) -> Chosen:
    return None
