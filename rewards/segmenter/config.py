"""What a segmenter is made of. Imports without torch, so that a recipe can be checked first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rollout.errors import RecipeError

SAM2_PRESETS = ("tiny", "sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l")
"""``tiny`` is built from the sizes below; the others from the sam2 package's own YAML of that name."""
SAM3_PRESETS = ("sam3_tiny", "sam3")
"""``sam3_tiny`` is built from the sizes below; ``sam3`` as transformers builds the tracker of facebook/sam3."""
PRESETS = (*SAM2_PRESETS, *SAM3_PRESETS)
SAM3_PATCH = 14
"""Pixels of a patch's side."""
SAM3_MEMORY_WIDTH = 64
"""Channels of a memory, which transformers' class has in its code."""


@dataclass(frozen=True)
class SegmenterConfig:
    """SAM 2 or SAM 3 by preset or by size. Sizes are read only where ``preset`` is a tiny one.

    Raises:
        RecipeError: an unknown preset, or sizes that SAM 2's modules cannot be built with.
    """

    preset: str = "tiny"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs every forward under autocast and keeps image features in bfloat16."""
    propagation_gate: bool = True
    """Stock SAM 2 blanks a propagated mask whose object score is negative. Single-frame decoding never does.
    The losses of SPEC 2.4 and 2.6 do not teach that score: a decoder that trains far from its start may want False."""

    image_size: int = 128
    """Side in pixels to which frames are resized; mask logits have a quarter of it. SAM 3 has patches of 14 where SAM 2
    has cells of 16, so that its frames are 14/16 of this side, and all its maps as large as SAM 2's."""
    embed_dim: int = 16
    """Channels of the image encoder's first stage."""
    d_model: int = 128
    """Width of prompts and of the mask decoder, hence of a ``[SEG]`` state."""
    mem_dim: int = 16
    """Channels of a memory; an object pointer is cut into d_model / mem_dim tokens."""
    stages: tuple[int, int, int, int] = (1, 1, 2, 1)
    """Blocks in each of the encoder's four stages."""
    global_att_blocks: tuple[int, ...] = (3,)
    """Blocks with attention over the whole image; none may open a stage."""
    memory_layers: int = 1
    memory_feedforward: int = 128
    fuser_layers: int = 1
    fuser_layer_scale: float = 0.1
    """SAM 2 starts at 1e-6; a short training never gets that off the ground."""
    seed: int = 0
    """Seeds the random initial weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "global_att_blocks", tuple(self.global_att_blocks))
        if self.preset not in PRESETS:
            raise RecipeError(f"segmenter.preset: {self.preset!r} is not one of {', '.join(PRESETS)}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise RecipeError(f"segmenter.compute_dtype: {self.compute_dtype!r}; use 'float32' or 'bfloat16'")
        if self.is_tiny:
            self._check_sizes()
        if self.preset == "sam3_tiny" and self.d_model % SAM3_MEMORY_WIDTH:
            raise RecipeError(
                f"segmenter.d_model: {self.d_model} must be a multiple of {SAM3_MEMORY_WIDTH}, SAM 3's memory channels"
            )

    def _check_sizes(self) -> None:
        for name, unit in (("image_size", 32), ("embed_dim", 16), ("d_model", 32), ("mem_dim", 16)):
            value = getattr(self, name)
            if value <= 0 or value % unit:
                raise RecipeError(f"segmenter.{name}: {value} must be a positive multiple of {unit}")
        if self.d_model % self.mem_dim:
            raise RecipeError(f"segmenter.mem_dim: {self.mem_dim} must divide segmenter.d_model = {self.d_model}")
        openers = {sum(self.stages[:i]) for i in range(len(self.stages))}
        if clash := openers & set(self.global_att_blocks):
            raise RecipeError(
                f"segmenter.global_att_blocks: block {min(clash)} opens a stage (stages {self.stages}), where SAM 2 "
                "changes resolution; choose a later block of that stage"
            )

    @property
    def family(self) -> str:
        """Whose architecture it is: a name of ``families.py``."""
        return "sam3" if self.preset.startswith("sam3") else "sam2"

    @property
    def is_tiny(self) -> bool:
        """Whether the sizes count."""
        return self.preset in ("tiny", "sam3_tiny")

    @property
    def prompt_width(self) -> int:
        """Width C of a ``[SEG]`` state: 256 in every released SAM 2 and SAM 3."""
        return self.d_model if self.is_tiny else 256

    @property
    def input_size(self) -> int:
        """Side in pixels of the image that the encoder sees."""
        cells = self.image_size // 16 if self.is_tiny else 72 if self.family == "sam3" else 64
        return cells * (SAM3_PATCH if self.family == "sam3" else 16)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> SegmenterConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            RecipeError: for a key that is not a field.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(d) - known):
            raise RecipeError(f"segmenter.{unknown[0]}: unknown key; known are {', '.join(sorted(known))}")
        return cls(**d)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> SegmenterConfig:
        return cls.from_dict(json.loads(path.read_text()))
