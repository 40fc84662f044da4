"""``videoseg data check --ceiling``: which segmenter is measured, on what, and where the figures go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import DataError, RecipeError

if TYPE_CHECKING:
    from data_construction.check_report import CheckReport
    from data_construction.problems import Progress
    from rewards.segmenter import Segmenter


@dataclass(frozen=True)
class CeilingRequest:
    """The options of ``videoseg data check`` that belong to ``--ceiling``."""

    wanted: bool
    policy: Path | None
    segmenter: Path | None
    preset: str
    device: str
    out: Path

    def check(self) -> None:
        """Before anything is read. Raises DataError, RecipeError for what cannot be measured."""
        from rewards.model_files import check_sam2
        from rewards.segmenter import PRESETS
        from verl_ext.policy.checkpoint import has_head

        if not self.wanted:
            for option, given in (("--policy", self.policy), ("--segmenter", self.segmenter)):
                if given is not None:
                    raise RecipeError(f"{option} {given}: needs --ceiling, which measures it")
            return
        if (self.policy is None) == (self.segmenter is None):
            raise RecipeError(
                "--ceiling: give either --segmenter FILE (weights) or --policy FOLDER (with a [SEG] head)"
            )
        if self.device not in ("cpu", "cuda"):
            raise RecipeError(f"--device {self.device}: wants cpu or cuda")
        if self.preset not in PRESETS:
            raise RecipeError(f"--preset {self.preset}: known are {', '.join(PRESETS)}")
        if self.segmenter is not None:
            check_sam2(self.segmenter, self.preset)
        if self.policy is not None and not has_head(self.policy):
            raise DataError(f"{self.policy}: has no segmentation head; give a [SEG] policy, or --segmenter FILE")

    def load(self) -> Segmenter:
        """On its device. Raises DataError for weights that do not fit."""
        from rewards.segmenter import Segmenter, SegmenterConfig
        from rewards.segmenter.families import load_weights
        from verl_ext.policy.checkpoint import load_head_config
        from verl_ext.scoring.pool import segmenter_state

        if self.policy is not None:
            segmenter = Segmenter(load_head_config(self.policy))
            segmenter.model.load_state_dict(segmenter_state(self.policy))
        else:
            assert self.segmenter is not None
            dtype: Any = "bfloat16" if self.device == "cuda" else "float32"
            segmenter = Segmenter(SegmenterConfig(self.preset, compute_dtype=dtype))
            load_weights(segmenter.config.family, segmenter.model, self.segmenter)
        segmenter.to(self.device).eval().requires_grad_(False).round_weights()
        return segmenter


def add_ceilings(report: CheckReport, request: CeilingRequest, progress: Progress | None = None) -> list[str]:
    """Measure every split that was checked and has masks; figures join ``report``, rows go to files. What to say of
    it."""
    from data_construction.ceiling import by_clip, ceiling_file, means_of, measure_ceiling, write_ceilings
    from data_construction.problems import problem_of
    from data_construction.readers import open_dataset
    from rewards.segmenter import RequestScorer

    segmenter = request.load()
    about = {"segmenter": segmenter.config.preset, "weights": str(request.policy or request.segmenter)}
    notes: list[str] = []
    for split, counts in report.splits.items():
        dataset = open_dataset(report.name, report.root, split)
        if dataset.masks is None:
            notes.append(f"ceiling of {split}: not measured, the split has no masks")
            continue
        errors: list[DataError] = []
        found = measure_ceiling(
            dataset, RequestScorer(segmenter), errors.append, seg=request.policy is not None, progress=progress
        )
        rows = list(found)
        counts.ceiling, counts.ceiling_by_clip = means_of(rows), by_clip(rows)
        report.add(problem_of(e, report.root, "no_ceiling") for e in errors)
        path = ceiling_file(request.out, split)
        write_ceilings(path, {"dataset": dataset.name, "split": split, **about}, rows)
        lowest = ", ".join(f"{name} {means['boxes']:.1f}" for name, means in list(counts.ceiling_by_clip.items())[:5])
        notes.append(f"{path}: ceilings of {len(rows)} expressions; lowest clips: {lowest or '-'}")
    return notes
