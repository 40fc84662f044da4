"""Dialogues of reinforcement on disk: what the policy said, saw and drew, for whoever looks at a run.

May import `recipe`. Written by the trainer (`keeper`), read by the viewer (`files`).
"""

from verl_ext.rollout_log.files import FOLDER, DamagedStep, StepFile, read_group, read_header, step_files, write_step
from verl_ext.rollout_log.keeper import RolloutKeeper
from verl_ext.rollout_log.records import KeptGroup, KeptRollout, KeptTurn, LogProbs

__all__ = [
    "FOLDER",
    "DamagedStep",
    "KeptGroup",
    "KeptRollout",
    "KeptTurn",
    "LogProbs",
    "RolloutKeeper",
    "StepFile",
    "read_group",
    "read_header",
    "step_files",
    "write_step",
]
