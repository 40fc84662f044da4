"""Synthetic RVOS clips in ReVOS layout, of several worlds: deterministic by seed, unambiguous by construction."""

from data_construction.synthetic.expressions import DEFAULT_KINDS, KINDS
from data_construction.synthetic.worlds import WORLDS
from data_construction.synthetic.writer import SyntheticReport, make_synthetic, object_words, read_synthetic_objects

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "WORLDS",
    "SyntheticReport",
    "make_synthetic",
    "object_words",
    "read_synthetic_objects",
]
