"""A policy small enough to train on a laptop: real Qwen3-VL and SAM 2 modules at toy widths.

May import `policy`. Public: `build.build_tiny_policy`, `warm_up.warm_up_segmenter`.
"""
