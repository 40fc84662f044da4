"""Small generated folders in the exact published layout of every data set, for tests and for trying commands."""

from data_construction.layouts.clips import SPLITS, DrawnClip, draw_clips
from data_construction.layouts.registry import layout_names, write_layout

__all__ = ["SPLITS", "DrawnClip", "draw_clips", "layout_names", "write_layout"]
