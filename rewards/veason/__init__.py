"""Veason-R1's four rewards on one reply with a keyframe timestamp and boxes (SPEC 3).

``matched_boxes`` says which boxes SAM 2 is to be prompted with, before ``veason_consistency`` can be scored.
"""

from rewards.veason.matching import matched_boxes
from rewards.veason.reply import chosen_position, read_reply

__all__ = ["chosen_position", "matched_boxes", "read_reply"]
