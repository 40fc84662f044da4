"""From finished dialogues to rewards and masks: the requests a method asks the segmenter pool for, and the pool.

May import `recipe`, `policy`, `seg`. The pool's actors are placed in `pool.build_pool`.
"""

from verl_ext.scoring.rollouts import Rollout, predict_masks, recipe_scoring, score_rollouts, scoring_of

__all__ = ["Rollout", "predict_masks", "recipe_scoring", "score_rollouts", "scoring_of"]
