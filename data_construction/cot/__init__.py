"""Multi-turn traces with decoupled thinking (VTS-CoT), planned from ground truth."""

from data_construction.cot.build import scene_objects, write_training_files
from data_construction.cot.plan import TraceSettings, plan_traces
from data_construction.cot.tracks import InitialFrames, SceneObject

__all__ = ["InitialFrames", "SceneObject", "TraceSettings", "plan_traces", "scene_objects", "write_training_files"]
