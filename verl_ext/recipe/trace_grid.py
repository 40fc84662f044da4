"""Whether a recorded trace's numbers mean in training what they meant where it was made (traces with boxes).

Boxes count pixels of a square of the trace's side, seconds those of the frame rate that it was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rollout.environments.combined_answers import CombinedSettings, as_combined
from rollout.environments.single_turn_boxes import BoxSettings
from rollout.errors import DataError
from rollout.verification import FRAMES
from verl_ext.recipe.rollout_settings import environment_of

if TYPE_CHECKING:
    from data_construction.readers import VTSCoTRecord
    from rollout.types import Clip
    from verl_ext.recipe.schema import Recipe


def grid_problem(recipe: Recipe, record: VTSCoTRecord, clip: Clip | None = None) -> str:
    """What differs, and what to do; empty if nothing does, or if the record does not say how it was made.

    Args:
        clip: the record's, by whose times training counts seconds; None: only boxes are looked at.
    """
    if not recipe.has_boxes:
        return ""
    if recipe.answers == "both" and (problem := _no_boxes(recipe, record)):
        return problem
    if not record.shown:
        return ""
    if recipe.answers == "boxes" and (problem := _boxes(recipe, record.shown)):
        return problem  # where a mask joins them they are converted (`rollout.environments.combined_answers`)
    return "" if clip is None else _seconds(recipe, record, clip)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Of what is shown; neither the words, which may be a set of another kind, nor what follows the answer matter."""
    return {key: value for key, value in environment_of(recipe)[1].items() if key not in ("prompts", FRAMES)}


def _no_boxes(recipe: Recipe, record: VTSCoTRecord) -> str:
    """Why its answers cannot get the key for the mask."""
    settings = CombinedSettings.from_dict(_settings(recipe))
    try:
        for reply in record.replies:
            as_combined(reply, settings, record.shown.get("side"))
    except DataError as e:
        return (
            f"{e}. With rollout.environment: {recipe.rollout.environment} annotations are traces with boxes "
            "(`videoseg data cot seed`); name such a file, or leave rollout.environment out"
        )
    return ""


def _boxes(recipe: Recipe, shown: Mapping[str, float]) -> str:
    side, r = shown.get("side"), recipe.rollout
    if side is None:
        return ""
    if r.box_units != "pixels":
        return (
            f"its boxes are in pixels of {side:g} x {side:g} frames, and rollout.box_units is {r.box_units}: set "
            "rollout.box_units=pixels, or leave these traces out"
        )
    if side != r.box_side:
        return (
            f"its boxes are in pixels of {side:g} x {side:g} frames, and rollout.box_side is {r.box_side}: set "
            f"rollout.box_side={side:g}, or make the traces again with --side {r.box_side}"
        )
    return ""


def _seconds(recipe: Recipe, record: VTSCoTRecord, clip: Clip) -> str:
    """Of the frames that it shows; their order and number are the trace's own."""
    settings = BoxSettings.from_dict(_settings(recipe))
    made, frames = replace(settings, fps=record.shown.get("fps", 0.0)), record.sample_frame_indice
    if not all(0 <= f < clip.num_frames for f in frames):
        return ""  # said where the dialogue begins
    here, there = settings.timestamps(clip, frames), made.timestamps(clip, frames)
    different = [i for i, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1]]
    if not different:
        return ""
    i = different[0]
    rate = f"{made.fps:g} frames a second" if made.fps else "the clip's own times"
    own = "its own times" if clip.times else f"{clip.fps:g} frames a second" if clip.fps else "1 frame a second"
    return (
        f"it was made with {rate}, where frame {frames[i]} is at {there[i]} s; training counts by the data set, "
        f"{own}, where that frame is at {here[i]} s. Say the rate in the data set's stanza (fps of the split), or make "
        "the traces again without --fps"
    )
