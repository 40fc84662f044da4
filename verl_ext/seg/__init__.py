"""The ``[SEG]`` head's side of a batch: which tokens and frames it draws, mask log-probs, calibration, mask losses.

May import the recipe and what lies below ``verl_ext``. Public: `batch.collect`, `calibration.calibrate`,
`mask_terms.mask_terms`, `mask_losses.mask_losses`, `losses.grpo_objective` (the objective in plain torch).
"""
