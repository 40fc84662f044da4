"""The policy: Qwen3-VL, a projection of its ``[SEG]`` states, and SAM 2's mask decoder, as one module.

May import `packing` and `recipe`. Public: `checkpoint` (load and save a folder), `head`, `modeling`, `new`, `convert`.
"""
