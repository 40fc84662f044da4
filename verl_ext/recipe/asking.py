"""How a policy is asked: with which words, and in which units it answers boxes. Read from its folder; loads nothing.

Training leaves ``prompts.yaml`` in the policy's folder, so that evaluation asks as training did.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.prompts import (
    SUFFIXES,
    BoxPromptSet,
    CombinedPromptSet,
    PromptSet,
    get_prompts,
    prompt_names,
    read_prompts,
)

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

PROMPTS_FILE = "prompts.yaml"
KINDS: dict[str, type[PromptSet] | type[BoxPromptSet]] = {
    "masks": PromptSet,
    "boxes": BoxPromptSet,
    "both": CombinedPromptSet,
}
"""By what replies hold."""
CELL = 28
"""Qwen2.5-VL's patch 14 times its merge 2."""
THOUSANDTHS = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
"""Model types whose grounding counts 0 to 1000; Qwen2.5-VL's counts pixels of the picture as it is shown."""

ROW_MODELS = ("qwen3_vl", "qwen2_5_vl")
"""Model types whose passes can run over rows (see `verl_ext.packing.prepare`)."""


def prompts_of(recipe: Recipe) -> PromptSet | BoxPromptSet:
    """The recipe's set. Raises RecipeError for one that is not there or not sound."""
    return get_prompts(recipe.policy.prompt_set, KINDS[recipe.answers])


def prompt_setting(recipe: Recipe) -> str:
    """As the environment's settings name it; a file by its whole path, as workers may stand elsewhere."""
    name = recipe.policy.prompt_set
    return str(Path(name).absolute()) if name.endswith(SUFFIXES) else name


def prompts_mark(recipe: Recipe) -> str:
    """Tells one set's texts from another's, whatever the set is called."""
    texts = json.dumps(prompts_of(recipe).to_dict(), sort_keys=True)
    return hashlib.blake2b(texts.encode(), digest_size=4).hexdigest()


def recorded_prompts(folder: str | Path) -> Path | None:
    """The file of the set that the policy was trained with; None where its folder does not say."""
    file = Path(folder) / PROMPTS_FILE
    return file if file.is_file() else None


def record_prompts(recipe: Recipe) -> str:
    """The text of `PROMPTS_FILE` for a policy trained by ``recipe``."""
    units = {"units": recipe.rollout.box_units} if recipe.has_boxes else {}
    return prompts_text(prompts_of(recipe).to_dict() | units)


def prompts_text(values: dict[str, Any]) -> str:
    """The YAML of a set."""
    import yaml

    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=120)  # type: ignore[no-any-return]


def setting_of(file: Path, answers: str) -> str:
    """``policy.prompt_set`` for the set in ``file``: its name where it is one that has a name, else the file."""
    kind = KINDS[answers]
    texts = get_prompts(str(file), kind).to_dict()
    texts |= {} if answers == "masks" else {"units": ""}
    return next((name for name in prompt_names(kind) if get_prompts(name, kind).to_dict() == texts), str(file))


def answers_of_policy(folder: str | Path, has_head: bool) -> str:
    """``masks``, ``boxes`` or ``both``: how a policy answers, by its head and the prompts that it was trained with."""
    own = recorded_prompts(folder)
    if not has_head:
        return "boxes"
    return "both" if own is not None and "stamp" in _mapping(own) else "masks"


def _mapping(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # what is wrong with it is said where it is read
    return found if isinstance(found, dict) else {}


def units_of_policy(folder: str | Path) -> str:
    """What the policy's boxes are in: as its training recorded it, else as its kind answers untrained."""
    own = recorded_prompts(folder)
    recorded = "" if own is None else read_prompts(own, BoxPromptSet).units
    return recorded or ("thousandths" if model_type(folder) in THOUSANDTHS else "pixels")


def box_notes(recipe: Recipe) -> list[str]:
    """What there is to know about the units of a box policy whose kind has others than the recipe."""
    kind, asked = model_type(recipe.policy.path), recipe.rollout.box_units
    if recipe.method != "veason_r1" or kind not in THOUSANDTHS:
        return []
    own = units_of_policy(recipe.policy.path)
    there = f"policy.path is a {kind}, which untrained answers boxes in thousandths (0..1000)"
    if own != asked:
        return [f"{there}; rollout.box_units is {asked}, which training has to teach it first"]
    return [f"{there}; rollout.box_units is {asked}: boxes are asked, read and rewarded in these"]


def cell_of_policy(folder: str | Path) -> int:
    """Sides of frames are multiples of this many pixels: patch times merge, by the policy's config.json; else 28."""
    vision = _config(folder).get("vision_config")
    sizes = vision if isinstance(vision, dict) else {}
    patch, merge = sizes.get("patch_size"), sizes.get("spatial_merge_size")
    return patch * merge if isinstance(patch, int) and isinstance(merge, int) else CELL


def model_type(folder: str | Path) -> str:
    """``model_type`` of a policy's config.json; empty where it says none."""
    return str(_config(folder).get("model_type", ""))


def _config(folder: str | Path) -> dict[str, Any]:
    try:
        found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
