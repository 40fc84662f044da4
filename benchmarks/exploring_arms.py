"""The arms of the study, by world: what each changes in ``grpo.yaml`` of ``recipes/exploring`` or ``recipes/twins``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.quickstart.settings import Layout, QuickstartSettings

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

BASE = "rl_without_calibration"
"""What the other arms are held against."""
SUPERVISED = "supervised"
OFF = "objective.calibration.enabled=false"
AUX = "objective.aux_coef=0.2"
"""What VideoSEG-O3's recipes have; that of the second world leaves it out."""
ALL_MASKS = "objective.aux_min_iou=0"
"""As published; the first world's recipe has those alone that are nearly right."""
ARMS: dict[str, tuple[str, ...]] = {
    BASE: (OFF,),
    SUPERVISED: (),
    "published": (),
    "sum": ("objective.calibration.reduction=sum",),
    "topk": ("objective.calibration.reduction=topk", "objective.calibration.topk=0.1"),
    "drawn_states": ("objective.calibration.form=state", "objective.calibration.sigma=0.3"),
    "credit_by_part": (OFF, "objective.credit=by_part"),
    "no_auxiliary_loss": (OFF, ALL_MASKS, "objective.aux_coef=0"),
    "auxiliary_loss_on_all": (OFF, ALL_MASKS),
    "auxiliary_loss_for_the_head": (OFF, ALL_MASKS, "objective.aux_trains=head"),
    "no_keyframe_vs_mask": (OFF, "rewards.weights.keyframe_vs_mask=0"),
    "no_progressive_keyframe": (OFF, "rewards.weights.progressive_keyframe=0"),
    "existence_legible": (OFF, "rewards.existence=legible"),
    "no_format_rewards": (OFF, "rewards.weights.strict_format=0", "rewards.weights.step_format=0"),
}
"""Of the world where exploring pays."""
TWIN_ARMS: dict[str, tuple[str, ...]] = {
    BASE: (OFF,),
    "published": (),
    "drawn_states": ("objective.calibration.form=state", "objective.calibration.sigma=0.3"),
    "auxiliary_loss": (OFF, AUX),
    "wide_drawn_states": ("objective.calibration.form=state", "objective.calibration.sigma=1"),
    "sum": ("objective.calibration.reduction=sum",),
    "topk": ("objective.calibration.reduction=topk", "objective.calibration.topk=0.1"),
    "auxiliary_loss_alone": (OFF, AUX, "objective.advantage_eps=1e9"),  # advantages of nothing
    "published_with_auxiliary_loss": (AUX,),
    "wide_drawn_states_with_auxiliary_loss": (
        "objective.calibration.form=state",
        "objective.calibration.sigma=1",
        AUX,
    ),
    SUPERVISED: (),
}
"""Of the world of like pairs, whose recipe has no auxiliary loss; in the order in which they tell most."""
WORLD_ARMS = {"badges": ARMS, "twins": TWIN_ARMS}
"""By name: recipe keys. ``supervised`` takes as many steps of as many dialogues on the cold start's traces instead."""


@dataclass(frozen=True)
class Arm:
    """One arm under one seed, from the study's one cold start."""

    name: str
    seed: int

    @property
    def key(self) -> str:
        """Its folder below the study's ``arms``, and its evaluation's below ``eval/arms``."""
        return f"{self.name}/seed{self.seed}"

    @property
    def evaluation(self) -> str:
        return f"arms/{self.key}"

    def folder(self, study: Layout) -> Path:
        return study.out / "arms" / self.key

    def recipe(self, study: Layout, settings: QuickstartSettings) -> Recipe:
        """The recipe that it runs, with its seed in it and the study's cold start before it."""
        from verl_ext.quickstart.settings import stage_recipe

        grpo = replace(
            settings, grpo=(*settings.grpo, *WORLD_ARMS[settings.world][self.name], f"output_dir={self.folder(study)}")
        )
        if self.name != SUPERVISED:
            return stage_recipe(study, "grpo.yaml", grpo, self.seed)
        rl = stage_recipe(study, "grpo.yaml", settings, self.seed)
        more = (
            f"output_dir={self.folder(study)}",
            f"policy.path={study.cold_start / 'policy'}",
            f"trainer.steps={rl.trainer.steps}",
            f"trainer.prompts_per_step={rl.rollouts_per_step}",
            f"trainer.mini_batch_prompts={rl.rollouts_per_step}",
            f"optim.lr={rl.optim.lr}",
            "optim.schedule=constant",
        )
        return stage_recipe(
            study, "cold_start.yaml", replace(settings, cold_start=(*settings.cold_start, *more)), self.seed
        )

    def done(self, study: Layout) -> bool:
        from verl_ext.run.run_files import run_finished

        return run_finished(self.folder(study)) and (self.policy(study) / "config.json").exists()

    def policy(self, study: Layout) -> Path:
        """The newest policy of its run."""
        from verl_ext.reinforce.run import newest_policy
        from verl_ext.supervised.run import POLICY_FOLDER

        folder = self.folder(study)
        return folder / POLICY_FOLDER if self.name == SUPERVISED else newest_policy(folder)

    def train(self, study: Layout, settings: QuickstartSettings, progress: object) -> None:
        """Go on where it stopped. Raises StoppedError where it was asked to stop again."""
        from verl_ext.quickstart.stages import finished
        from verl_ext.reinforce.run import train_grpo
        from verl_ext.supervised.run import train_sft

        train = train_sft if self.name == SUPERVISED else train_grpo
        finished(train(self.recipe(study, settings), resume=True, progress=progress), self.folder(study))  # type: ignore[arg-type]
