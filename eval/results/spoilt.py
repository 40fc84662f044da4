"""Where an evaluation on spoilt pictures lies: inside the folder of the one that it is held against."""

from __future__ import annotations

from pathlib import Path

PREFIX = "images_"


def spoilt_folder(out: Path, images: str) -> Path:
    """For results with pictures spoilt in the way ``images`` (``rollout.spoilt.WAYS``)."""
    return out / f"{PREFIX}{images.replace('-', '_')}"


def spoilt_folders(out: Path) -> dict[str, Path]:
    """The way -> folder of those that were evaluated, in the order of their names."""
    found = sorted(out.glob(f"{PREFIX}*/scores.json"))
    return {path.parent.name.removeprefix(PREFIX).replace("_", "-"): path.parent for path in found}
