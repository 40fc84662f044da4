"""``videoseg train`` of a ``grpo`` recipe: the trainer's step, held-out evaluation, prompts, verl's entry point.

May import every room but `supervised`, `tiny`, `quickstart`, `evaluation`, `doctor` and `cli`. Public:
`run.train_grpo`, `modes.TRAINERS`.
"""
