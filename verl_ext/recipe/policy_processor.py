"""The policy's image processor, as its folder describes it: classes that there are, and frames that it leaves alone.

What is wrong here would otherwise end the run once its processes have started, in words that name no file. Reads the
folder's small files; transformers is asked only about a class whose name is not one of the usual ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.recipe.asking import cell_of_policy, model_type

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

WHOLE, IMAGES, VIDEO, TOKENS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
CLASSES = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"),
    "qwen3_5": ("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"),
}
"""By model type, what to write: of the whole processor, of images, of videos."""
EDGES = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
"""Limits of pixels: beside ``size`` in published folders, and in it as transformers 5 writes them."""
Frame = tuple[str, int, int]
"""Setting, height, width."""
NOMINAL = (480, 854)
"""A clip's height and width, where the frames' size follows from it."""


@dataclass(frozen=True)
class Setting:
    """A value of one of the folder's files; ``key`` with points where it is nested."""

    file: str
    key: str
    value: Any


def processor_problems(recipe: Recipe, evaluation: bool = False) -> Iterator[str]:
    """What is wrong with the processor in ``policy.path``: file, key, value to write. Nothing for a folder that has no
    ``config.json`` of a Qwen-VL (other checks say so).

    ``evaluation``: for what ``videoseg eval`` shows; else for training and, if there are any, its evaluations.
    """
    folder = Path(recipe.policy.path)
    if model_type(folder) not in CLASSES:
        return
    whole, images = _read(folder / WHOLE), _read(folder / IMAGES)
    if not whole and not images:
        if (folder / "tokenizer.json").is_file():  # else more than the processor is missing
            yield (
                f"policy.path: {folder} has neither {WHOLE} nor {IMAGES}, so nobody knows how its frames become "
                "pixels: copy it from the model that the policy was trained from"
            )
        return
    yield from (_unknown(folder, setting) for setting in _classes(folder) if not _is_known(str(setting.value)))
    sizes = frame_sizes(recipe, evaluation)
    yield from _limits(recipe, sizes, folder, *_image_settings(whole, images))


def _classes(folder: Path) -> Iterator[Setting]:
    """The class names that loading the processor reads, each where it is read first."""
    found = {name: _read(folder / name) for name in (WHOLE, IMAGES, VIDEO, TOKENS)}
    places = [(name, "processor_class", values.get("processor_class")) for name, values in found.items()]
    yield from _first(places)
    for part, key, file in (
        ("image_processor", "image_processor_type", IMAGES),
        ("video_processor", "video_processor_type", VIDEO),
    ):
        inside = found[WHOLE].get(part)
        nested = (WHOLE, f"{part}.{key}", inside.get(key) if isinstance(inside, Mapping) else None)
        yield from _first([nested, (file, key, found[file].get(key))])


def _first(places: list[tuple[str, str, Any]]) -> Iterator[Setting]:
    yield from (Setting(*place) for place in [p for p in places if p[2]][:1])


def _unknown(folder: Path, setting: Setting) -> str:
    from importlib.metadata import version

    kinds = ("processor_class", "image_processor_type", "video_processor_type")
    right = CLASSES[model_type(folder)][kinds.index(setting.key.rpartition(".")[2])]
    return (
        f'policy.path: {folder / setting.file}: {setting.key} is "{setting.value}", a class that transformers '
        f'{version("transformers")} does not have: write "{right}" there'
    )


def _is_known(name: str) -> bool:
    plain = name.removesuffix("Fast")
    if any(plain in known for known in CLASSES.values()):
        return True
    import transformers

    return plain in dir(transformers)


def _image_settings(whole: Mapping[str, Any], images: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """File, prefix of its keys, and settings of the image processor."""
    inside = whole.get("image_processor")
    return (WHOLE, "image_processor.", inside) if isinstance(inside, Mapping) else (IMAGES, "", images)


def _limits(
    recipe: Recipe, shown: list[Frame], folder: Path, file: str, prefix: str, images: Mapping[str, Any]
) -> Iterator[str]:
    """A frame outside the limits of pixels would be resized again, behind the placeholders' and the boxes' back."""
    size = images.get("size")
    sizes = size if isinstance(size, Mapping) else {}
    if absent := _absent_edges(images, sizes):
        found = {edge: sizes.get(edge, sizes.get(key)) for key, edge in EDGES.items()}
        yield (
            f"policy.path: {folder / file}: {prefix}size is {json.dumps(sizes)}, without {' and '.join(absent)}, which "
            f"transformers 5 wants there: write {json.dumps(found)}"
        )
        return
    low, high = (_given(images, sizes, key, prefix) for key in EDGES)
    for where, height, width in shown:
        pixels, what = height * width, f"{where}: frames of {height} x {width} are {height * width} pixels"
        if high is not None and pixels > high[1]:
            yield (
                f"{what}, and {folder / file} has {high[0]} {high[1]}: write {pixels} or more there, or show smaller "
                f"frames{_smaller(recipe, high[1])}"
            )
        elif low is not None and pixels < low[1]:
            has = f"{folder / file} has {low[0]} {low[1]}"
            yield f"{what}, and {has}: write {pixels} or less there, or show larger ones"


def _absent_edges(images: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[str]:
    """What a ``size`` lacks; older versions wrote it by other keys, and beside it what makes up for that."""
    return [edge for key, edge in EDGES.items() if sizes and edge not in sizes and images.get(key) is None]


def _given(images: Mapping[str, Any], sizes: Mapping[str, Any], key: str, prefix: str) -> tuple[str, int] | None:
    """(key, pixels) of a limit, as transformers 5 reads it; None where the folder does not say."""
    for name, value in ((prefix + key, images.get(key)), (f"{prefix}size.{EDGES[key]}", sizes.get(EDGES[key]))):
        if isinstance(value, int) and not isinstance(value, bool):
            return name, value
    return None


def frame_sizes(recipe: Recipe, evaluation: bool = False) -> list[Frame]:
    """The frames that are shown; by budgets those of a clip of 480 x 854."""
    from rollout.frames import PixelBudget

    r, cell = recipe.rollout, cell_of_policy(recipe.policy.path)
    if recipe.method == "veason_r1":
        return [("rollout.box_side", r.box_side, r.box_side)]
    used = [] if evaluation else [("rollout", r.budgets)]
    used += [("rollout.eval", r.eval.budgets)] if evaluation or recipe.trainer.eval_every else []
    return [
        (f"{where}.budgets.{name}", *PixelBudget(getattr(budgets, name)).size(*NOMINAL, cell))
        for where, budgets in used
        for name in ("low_res", "spatial", "keyframe")
    ]


def _smaller(recipe: Recipe, most: int) -> str:
    if recipe.method != "veason_r1":
        return ""
    cell = cell_of_policy(recipe.policy.path)
    return f" (rollout.box_side={int(most**0.5) // cell * cell})"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
