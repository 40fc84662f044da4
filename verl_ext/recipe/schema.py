"""A recipe: everything that a run depends on, in one typed tree. Imports no torch, Ray, verl or vLLM.

The defaults are VideoSEG-O3's RL numbers (SPEC 2.1, 2.4, 2.6); ``recipes/bases`` holds what differs elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rollout.errors import RecipeError
from verl_ext.recipe.cluster import ClusterRecipe
from verl_ext.recipe.data import DataSource
from verl_ext.recipe.objective import ObjectiveRecipe, RewardsRecipe, SftLossRecipe
from verl_ext.recipe.policy import PolicyRecipe
from verl_ext.recipe.rollout import RolloutRecipe
from verl_ext.recipe.training import OptimRecipe, PoolRecipe, TrainerRecipe

Stage = Literal["sft", "grpo"]
Method = Literal["videoseg_o3", "veason_r1"]


@dataclass
class Recipe:
    """What ``videoseg train`` runs. One YAML file a recipe; see `verl_ext.recipe.load_recipe`."""

    name: str = "???"
    """Of the run; unless given, the recipe's file name."""
    stage: Stage = "grpo"
    """``sft``: supervised (segmentation SFT and cold start). ``grpo``: reinforcement learning."""
    method: Method = "videoseg_o3"
    """``videoseg_o3``: several turns and ``[SEG]`` masks. ``veason_r1``: one turn, a keyframe and boxes."""
    device: Literal["cpu", "cuda"] = "cuda"
    """What everything runs on."""
    seed: int = 0
    """Of weights, order of data, held-out draw and sampling."""
    output_dir: str = "runs/${name}"
    """Folder for everything that the run writes."""
    policy: PolicyRecipe = field(default_factory=PolicyRecipe)
    data: list[DataSource] = field(default_factory=list)
    """Trained on."""
    val: list[DataSource] = field(default_factory=list)
    """Held out."""
    rollout: RolloutRecipe = field(default_factory=RolloutRecipe)
    rewards: RewardsRecipe = field(default_factory=RewardsRecipe)
    pool: PoolRecipe = field(default_factory=PoolRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    sft_loss: SftLossRecipe = field(default_factory=SftLossRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    cluster: ClusterRecipe = field(default_factory=ClusterRecipe)

    @property
    def trains_embeddings(self) -> bool:
        """Whether token embeddings and output layer train in full beside adapters: only where new tokens need it.

        Reinforcement leaves them alone, its reference is the model with the adapters switched off; Veason-R1's
        supervised stage is plain LoRA.
        """
        return self.stage == "sft" and self.method == "videoseg_o3"

    @property
    def answers(self) -> str:
        """``masks``, ``boxes`` or ``both``: what replies hold in the recipe's environment."""
        from rollout.environment import answers_of

        own = {"videoseg_o3": "masks", "veason_r1": "boxes"}[self.method]
        try:
            return own if self.rollout.environment is None else answers_of(self.rollout.environment)
        except RecipeError:  # no such environment: a rule of its own says so
            return own

    @property
    def verifies(self) -> bool:
        """Whether the policy is shown its own masks, in one more turn."""
        from rollout.environment import environment_names, verifies

        name = self.rollout.environment
        return name is not None and name in environment_names() and verifies(name)

    @property
    def has_boxes(self) -> bool:
        """Whether the policy is shown timestamped squares and answers boxes, alone or with ``[SEG]``."""
        return self.answers != "masks"

    @property
    def rolls_out_apart(self) -> bool:
        """Whether vLLM has GPUs (on a CPU: processes) of its own."""
        return self.stage == "grpo" and self.trainer.mode == "separate_async"

    @property
    def rollout_processes(self) -> int:
        """vLLM's processes: those of the actor, or its own."""
        return self.trainer.rollout_processes if self.rolls_out_apart else self.trainer.actor_processes

    @property
    def processes_per_node(self) -> int:
        """Of actor and separate rollout: as many logical GPUs a machine must tell Ray that it has on a CPU."""
        t = self.trainer
        return -(-(t.actor_processes + t.rollout_processes) // t.nodes)

    @property
    def rollouts_per_step(self) -> int:
        """Prompts times group size."""
        return self.trainer.prompts_per_step * self.rollout.group_size

    @property
    def micro_batch(self) -> int:
        """Sequences by which batches must divide: rows take any number."""
        return self.trainer.micro_batch if self.policy.packing == "none" else 1
