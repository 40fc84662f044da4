"""Synthetic RVOS clips in ReVOS layout: deterministic by seed, unambiguous by construction."""

from data_construction.synthetic.expressions import DEFAULT_KINDS, KINDS
from data_construction.synthetic.writer import SyntheticReport, make_synthetic, read_synthetic_objects

__all__ = ["DEFAULT_KINDS", "KINDS", "SyntheticReport", "make_synthetic", "read_synthetic_objects"]
