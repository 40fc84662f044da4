"""What expressions are sorted by. A new stratum is one function here, or anywhere, under ``@stratum``.

A label is used as it is; a number is put into one of ``bins`` quantile bins of the population.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_construction.readers import Dataset
from data_construction.traces.trace import TYPE_NAMES
from rollout.errors import DataError
from rollout.types import Expression

Value = str | float
Measure = Callable[[Dataset, str, Expression], Value]


@dataclass(frozen=True)
class Stratum:
    """``measure(dataset, clip, expression)`` gives a label or a number."""

    name: str
    measure: Measure
    about: str


_STRATA: dict[str, Stratum] = {}


def stratum(name: str) -> Callable[[Measure], Measure]:
    """Register a measure; the first line of its docstring is what ``--help`` says."""

    def register(measure: Measure) -> Measure:
        _STRATA[name] = Stratum(name, measure, (measure.__doc__ or "").strip().splitlines()[0])
        return measure

    return register


def stratum_names() -> list[str]:
    return list(_STRATA)


def get_strata(names: Sequence[str]) -> list[Stratum]:
    """Raises DataError for an unknown name, naming those there are."""
    for name in names:
        if name not in _STRATA:
            raise DataError(f"no stratum {name!r}; there are {', '.join(_STRATA)}")
    return [_STRATA[name] for name in dict.fromkeys(names)]


@stratum("type")
def type_of(dataset: Dataset, clip: str, expression: Expression) -> Value:
    """referring, reasoning or no target, as ReVOS says"""
    return TYPE_NAMES.get(expression.type_id, f"type {expression.type_id}")


@stratum("objects")
def objects(dataset: Dataset, clip: str, expression: Expression) -> Value:
    """number of target objects"""
    return _counted(len(expression.anno_ids))


@stratum("single_multi")
def single_multi(dataset: Dataset, clip: str, expression: Expression) -> Value:
    """no, one or several target objects"""
    return ("none", "single", "multi")[min(2, len(expression.anno_ids))]


@stratum("kind")
def kind(dataset: Dataset, clip: str, expression: Expression) -> Value:
    """the data set's own label"""
    return expression.kind or "none"


@stratum("clip_length")
def clip_length(dataset: Dataset, clip: str, expression: Expression) -> Value:
    """frames of the clip, in quantile bins"""
    return float(len(dataset.index[clip].frames))


@stratum("mask_size")
def mask_size(dataset: Dataset, clip: str, expression: Expression) -> Value:
    """mean share of the frame that the targets cover where they are visible, in quantile bins"""
    from pycocotools import mask as coco_mask

    masklets = dataset.masklets(clip, expression.anno_ids)
    if masklets is None:
        raise DataError(f"{dataset.root}: clip {clip}: split {dataset.split} has no masks to measure")
    shares = []
    for frame in zip(*masklets.rles, strict=True):
        there = [{**rle, "counts": _bytes(rle["counts"])} for rle in frame if rle is not None]
        if there:
            shares.append(float(coco_mask.area(coco_mask.merge(there))) / (masklets.height * masklets.width))
    return float(np.mean(shares)) if shares else 0.0


def binned(values: Sequence[Value], bins: int) -> list[str]:
    """Labels as they are; numbers as the quantile bin they fall into, ``12..48``. Equal numbers share a bin."""
    if not values or isinstance(values[0], str):
        return [str(v) for v in values]
    numbers = np.asarray(values, dtype=np.float64)
    edges = np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1], method="higher")
    larger = numbers[numbers > numbers.min()]
    # where the smallest number is so frequent that a bin holds nothing else, the next bin begins above it
    edges = np.unique(np.maximum(edges, larger.min())) if len(larger) else edges[:0]
    places = np.searchsorted(edges, numbers, side="right")
    names = {}
    for place in np.unique(places).tolist():
        low, high = (f"{edge:.4g}" for edge in (numbers[places == place].min(), numbers[places == place].max()))
        names[place] = low if low == high else f"{low}..{high}"
    return [names[place] for place in places.tolist()]


def _counted(n: int) -> str:
    return f"{n} object{'' if n == 1 else 's'}"


def _bytes(counts: str | bytes) -> bytes:
    return counts.encode() if isinstance(counts, str) else counts
