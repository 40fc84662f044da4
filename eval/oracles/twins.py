"""What a world of like pairs is worth: masks of answers that take the one asked for, the other, both or neither.

No reader is trained: what is asked for can be told at a glance, and all that an answer can get wrong is its mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_construction.cot.build import read_names
from data_construction.readers import Dataset, open_dataset, read_vts_cot
from eval.oracles.figures import figures, jf_of
from rollout.errors import DataError
from rollout.types import RLE, Masklets

RIGHT_TWIN, TEACHER = "right_twin", "teacher"
Chosen = tuple[int, ...]
"""Of a clip's objects, together."""


@dataclass(frozen=True)
class Pair:
    """One expression's target among a clip's K objects, and the object that a trace calls the same."""

    target: int
    twin: int
    objects: int
    rng: np.random.Generator


TWIN_ORACLES: dict[str, Callable[[Pair], Chosen]] = {
    RIGHT_TWIN: lambda pair: (pair.target,),
    "both_twins": lambda pair: (pair.target, pair.twin),
    "either_twin": lambda pair: (int(pair.rng.choice([pair.target, pair.twin])),),
    "first_twin": lambda pair: (min(pair.target, pair.twin),),
    "other_twin": lambda pair: (pair.twin,),
    "random_object": lambda pair: (int(pair.rng.integers(pair.objects)),),
    "all_objects": lambda pair: tuple(range(pair.objects)),
    "nothing": lambda pair: (),
}
"""By name: which objects an answer takes. ``either_twin`` is all that a text can do which names both alike."""


def has_twins(names: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether every clip's objects share each name with exactly one other."""
    return bool(names) and all(sorted([*n.values()]).count(v) == 2 for n in names.values() for v in n.values())


def measure_twins(
    root: Path, split: str, seed: int, teacher_clips: int
) -> tuple[dict[str, dict[str, float]], int, int]:
    """Figures by oracle, clips, expressions. ``teacher``: the masks of the train split's traces, where it has traces.

    Raises DataError for a split without clips or masks.
    """
    names, data = read_names(root), open_dataset("revos", root, split)
    rows: dict[str, list[tuple[float, bool]]] = {name: [] for name in TWIN_ORACLES}
    asked = 0
    for number, clip in enumerate(data.clips()):
        ids = tuple(names[clip])
        scorer = _Scorer(clip, _masklets(data, clip, ids))
        for expression in data.expressions(clip):
            asked += 1
            target = ids.index(expression.anno_ids[0])
            twin = next(k for k, a in enumerate(ids) if k != target and names[clip][a] == names[clip][ids[target]])
            for place, (name, answer) in enumerate(TWIN_ORACLES.items()):
                chosen = answer(Pair(target, twin, len(ids), np.random.default_rng([seed, number, target, place])))
                rows[name].append((scorer.jf(chosen, target), chosen == (target,)))
    if not asked:
        raise DataError(f"{root}: oracles need clips in {split}")
    found = {name: figures(r) for name, r in rows.items()}
    if taught := _teacher(root, names, teacher_clips):
        found[TEACHER] = figures(taught)
    return found, len(data.clips()), asked


def _teacher(root: Path, names: Mapping[str, Mapping[str, str]], clips: int) -> list[tuple[float, bool]]:
    """Of the traces of the first clips: the masks that they draw, against what they were asked for."""
    file = root / "vts_cot_train.json"
    if not file.is_file():
        return []
    data = open_dataset("revos", root, "train")
    wanted = set(data.clips()[:clips])
    rows, scorers = [], {}
    for record in read_vts_cot(file, dataset=data):
        clip = record.video_name
        if clip not in wanted:
            continue
        ids = tuple(names[clip])
        if clip not in scorers:
            scorers[clip] = _Scorer(clip, _masklets(data, clip, ids))
        target = ids.index(record.anno_id[0])
        drawn = tuple(ids.index(a) for a in record.mask_anno_id) or (target,)
        rows.append((scorers[clip].jf(drawn, target), drawn == (target,)))
    return rows


def _masklets(data: Dataset, clip: str, ids: tuple[str, ...]) -> Masklets:
    found = data.masklets(clip, ids)
    if found is None:
        raise DataError(f"{data.root}: split {data.split} has no masks; oracles need them")
    return found


class _Scorer:
    """Each choice of a clip is scored once."""

    def __init__(self, clip: str, masklets: Masklets) -> None:
        self.clip, self.masklets = clip, masklets
        self._known: dict[tuple[Chosen, int], float] = {}

    def jf(self, chosen: Chosen, target: int) -> float:
        key = tuple(sorted(chosen)), target
        if key not in self._known:
            self._known[key] = jf_of(self._union(key[0]), self.masklets, target, self.clip)
        return self._known[key]

    def _union(self, chosen: Chosen) -> Sequence[RLE | None]:
        from pycocotools import mask as coco_mask

        frames = zip(*(self.masklets.rles[k] for k in chosen), strict=True)
        if len(chosen) < 2:
            return self.masklets.rles[chosen[0]] if chosen else [None] * self.masklets.num_frames
        seen = [[r for r in frame if r is not None] for frame in frames]
        return [coco_mask.merge(frame) if frame else None for frame in seen]
