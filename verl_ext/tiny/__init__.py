"""A policy small enough to train on a laptop: real Qwen3-VL and SAM 2 modules at toy widths."""
