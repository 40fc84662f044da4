"""Sizes of the quickstart: what fits fifteen minutes on two cores and still learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe


ONE_GPU: tuple[str, ...] = (
    "device=cuda",
    "policy.dtype=bfloat16",
    "trainer.gpus_per_node=1",
    "trainer.actor_processes=1",
    "pool.gpus_per_worker=0",
    "pool.share_gpu=true",
    "rollout.engine.gpu_memory_utilization=0.3",
)
"""Overrides that put actor, vLLM and pool of a CPU recipe on one GPU."""
ONE_GPU_GRPO: tuple[str, ...] = (
    "trainer.prompts_per_step=24",
    "rollout.group_size=8",
    "trainer.micro_batch=48",
    "data.1.weight=1",
)
"""Four times the rollouts of a step on a CPU (22 to 28 s a step on one H100), and every kind of expression as often
as the data has it: a long run may learn what the cold start did not teach."""
EVALUATED_AFTER = 25
"""Steps between evaluations of a long RL run."""


STAGES = ("segmentation.yaml", "cold_start.yaml", "grpo.yaml")


@dataclass(frozen=True)
class QuickstartSettings:
    """Tests shrink these; users need not."""

    method: str = "videoseg_o3"
    world: str = "shapes"
    """Of ``data_construction.synthetic.WORLDS``."""
    recipes: tuple[tuple[str, str], ...] = ()
    """Shipped recipes that take the quickstart's place, by its file names: (``grpo.yaml``, ``exploring/grpo.yaml``)."""
    size: int | None = None
    """Side of the frames; None is the world's own."""
    reading: dict[str, Any] | None = None
    """How long the policy learns to read legible frames, and to point at what it read, before its first stage, see
    ``ReadingSettings``; None: it has nothing to read."""
    reading_frames: int = 3
    """Of each expression, at most: reading is learnt on them, and the first stage trains on the same conversations."""
    dialogues: dict[str, Any] | None = None
    """How long it then learns the form of traces, and to point with the last ``[SEG]`` of each, likewise; None: not at
    all. Before reading is learnt it would point by marks that it cannot read yet, and reading comes late or never."""
    dialogues_shown: int = 1500
    """Traces, at most, that it learns them from."""
    reading_kept: float = 0.25
    """Share of the reading conversations that are shown among them, lest reading is forgotten."""
    policy: dict[str, Any] = field(default_factory=dict)
    """Widths of the policy, see ``TinyPolicy``; empty: the device's own."""
    clips: dict[str, int] = field(default_factory=lambda: {"train": 500, "valid": 40, "test": 60})
    """Clips a split. Clips are disjoint between splits."""
    frames: tuple[int, int] = (16, 16)
    """Fewest and most frames of a clip. With one length the same frame numbers come back in every dialogue, and
    copying them into the reply is learnt in the time; with 16 to 20, one seed of three looped in its second turn."""
    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "attribute": 4.0,
            "position": 0.35,
            "motion": 0.35,
            "temporal": 0.35,
            "comparison": 0.35,
            "count": 0.35,
            "negation": 0.35,
            "no_target": 0.35,
        }
    )
    """Expressions wanted a clip, by kind."""
    traces: dict[str, Any] = field(
        default_factory=lambda: {"recover": 0.0, "describe_target": False, "named_kinds": ("attribute", "no_target")}
    )
    """How traces are written, see ``TraceSettings``: without what so small a policy would only guess."""
    warm_up_steps: int = 300
    """Of SAM 2 alone: it stands in for the public checkpoint, which needs no training."""
    warm_up_enough: float = 0.8
    """IoU of held-out single frames below which it is begun anew from another seed: stages after it cannot mend it."""
    warm_up_starts: int = 3
    """At most; the best is taken."""
    warm_up: dict[str, Any] = field(
        # decoding single frames is enough: a state that is injected in every frame then propagates without memories (J
        # 0.89 against 0.72 after as many seconds of training half on propagation)
        # clicks instead of boxes: `videoseg demo` asks for those, nothing of this quickstart for these
        default_factory=lambda: {
            "single_frame_share": 1.0,
            "transformer_lr_factor": 0.1,
            "tasks": {"frame_box_share": 0.0, "frame_click_share": 1.0},
        }
    )
    """How, see ``WarmUpSettings``."""
    propagation_gate: bool = False
    """Whether SAM 2 blanks propagated masks by its object score, as the public one does. Where later stages train the
    decoder, nothing teaches that score: its sign drifts and blanks single frames of good tracks."""
    warm_up_samples: int = 2000
    """Expressions whose clips it sees."""
    test_samples: int = 150
    """Held-out expressions that are evaluated, a fixed draw by seed."""
    taught_kinds: tuple[str, ...] = ("attribute",)
    """Kinds of expression that the cold start claims to teach."""
    segmentation: tuple[str, ...] = ()
    """Overrides of ``recipes/quickstart/segmentation.yaml``."""
    cold_start: tuple[str, ...] = ()
    """Overrides of ``recipes/quickstart/cold_start.yaml``."""
    grpo: tuple[str, ...] = ()
    """Overrides of ``recipes/quickstart/grpo.yaml``."""
    device: str = "cpu"
    """``cuda``: the same on one GPU, with larger RL steps."""
    rl_steps: int | None = None
    """GRPO steps; None takes the recipe's."""
    other_layouts: tuple[str, ...] = ()
    """Data sets by whose published layout a few more clips are made, for the trained policy's evaluation alone."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Training stages, by the recipes' file names; the first one starts from the untrained policy."""
        return ("cold_start.yaml", "grpo.yaml") if self.method == "veason_r1" else STAGES

    def overrides(self, name: str) -> tuple[str, ...]:
        """What changes in a shipped recipe, by its file name."""
        shipped = not self.recipes
        out = ONE_GPU if self.device == "cuda" and shipped else ()
        if name == "grpo.yaml":
            out += ONE_GPU_GRPO if self.device == "cuda" and shipped else ()
            if self.rl_steps is not None:
                every = self.rl_steps if self.rl_steps < 2 * EVALUATED_AFTER else EVALUATED_AFTER
                out += (f"trainer.steps={self.rl_steps}", f"trainer.eval_every={every}", f"trainer.save_every={every}")
        given = {"segmentation.yaml": self.segmentation, "cold_start.yaml": self.cold_start, "grpo.yaml": self.grpo}
        return (*out, *given[name])


@dataclass(frozen=True)
class Layout:
    """Where everything of a quickstart lies."""

    out: Path

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def untrained(self) -> Path:
        return self.out / "untrained"

    @property
    def drawn(self) -> Path:
        """The policy as its random weights came, before its projection is centred; removed afterwards."""
        return self.out / ".drawn"

    @property
    def sam2(self) -> Path:
        """SAM 2's weights, of a box policy's quickstart."""
        return self.out / "sam2_tiny.pt"

    @property
    def segmentation(self) -> Path:
        return self.out / "segmentation"

    @property
    def cold_start(self) -> Path:
        return self.out / "cold_start"

    @property
    def grpo(self) -> Path:
        return self.out / "grpo"

    def stage(self, recipe: str) -> Path:
        """A training stage's folder, by its recipe's file name."""
        return self.out / recipe.removesuffix(".yaml")

    def other_data(self, name: str) -> Path:
        """Clips in another data set's layout."""
        return self.out / f"data_{name}"

    @property
    def summary(self) -> Path:
        return self.out / "summary.json"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def evaluation(self, stage: str) -> Path:
        """Results and scores of ``untrained``, ``cold_start`` or ``rl``."""
        return self.out / "eval" / stage


def recipe_file(name: str, settings: QuickstartSettings | None = None) -> Path:
    """A recipe shipped with the checkout; that of the settings' world where they name one."""
    taken = dict(settings.recipes).get(name) if settings is not None else None
    return Path(__file__).resolve().parents[2] / "recipes" / (taken or f"quickstart/{name}")


def stage_recipe(layout: Layout, name: str, settings: QuickstartSettings, seed: int) -> Recipe:
    """A shipped recipe with the quickstart's places in it, then what ``settings`` change."""
    from verl_ext.recipe import load_recipe, override

    number = settings.stages.index(name)
    start = layout.untrained if number == 0 else layout.stage(settings.stages[number - 1]) / "policy"
    file = recipe_file(name, settings)
    shipped = load_recipe(file)
    places: dict[str, Any] = {"policy.path": start, "output_dir": layout.stage(name), "seed": seed}
    if shipped.pool.checkpoint is not None:
        places["pool.checkpoint"] = layout.sam2
    for section, sources in (("data", shipped.data), ("val", shipped.val)):
        for i, source in enumerate(sources):
            places[f"{section}.{i}.root"] = layout.data
            if source.annotations is not None:
                places[f"{section}.{i}.annotations"] = layout.data / Path(source.annotations).name
    given = [override(key, str(value) if isinstance(value, Path) else value) for key, value in places.items()]
    return load_recipe(file, [*given, *settings.overrides(name)])
