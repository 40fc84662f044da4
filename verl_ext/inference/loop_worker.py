"""verl's process of agent loops, in which pictures stay references.

verl 0.9.1 runs the image processor over all of a rollout's images, one rollout after another on the thread that also
serves their dialogues, and puts float32 pixels into its queue: 26 MB and 60 ms for 21 pictures of a VideoSEG-O3
dialogue. All that positions need are the grids; `verl_ext.policy.pictures` makes pixels where they are used.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class LoopWorker(_Worker):  # type: ignore[misc]
    """Takes what `verl_ext.inference.agent_loop` says was shown; the loop gives verl no image."""

    def _compute_multi_modal_inputs(self, output: Any, input_ids: torch.Tensor) -> dict[str, Any]:
        """What verl's makes of the images but for ``pixel_values``, and ``pictures`` in their place.

        ``mm_token_type_ids`` tells verl's `_compute_position_ids` (which takes it out) that this processor has them.
        """
        inputs: dict[str, Any] = dict(output.extra_fields.pop("picture_inputs"))
        if "image_grid_thw" in inputs:
            inputs["images_seqlens"] = inputs["image_grid_thw"].prod(dim=1)
        return inputs | {"mm_token_type_ids": torch.zeros_like(input_ids)}


class LoopManager(AgentLoopManagerTQ):  # type: ignore[misc]
    """Named in ``rollout.agent.agent_loop_manager_class``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(LoopWorker)
