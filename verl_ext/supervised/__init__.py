"""``videoseg train`` of an ``sft`` recipe: traces replayed through the environment, verl's SFT trainer, checkpoints.

May import what `reinforce` may, and not `reinforce`. Public: `run.train_sft`, `dataset`.
"""
