"""A few samples as pictures: frames of a clip in a row, every object's outline over them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.readers import Dataset
from rollout.errors import DataError
from rollout.frames import evenly_spaced, load_frame
from rollout.types import Sample

COLUMNS, TILE_HEIGHT, HEADER = 6, 180, 34
COLORS = ((255, 64, 64), (64, 220, 64), (80, 140, 255), (255, 200, 0), (230, 80, 230), (0, 220, 220))


def draw_samples(
    dataset: Dataset, count: int, folder: Path, on_problem: Callable[[DataError], None] | None = None
) -> list[Path]:
    """Write ``count`` samples, spread evenly over the split, as PNG sheets into ``folder``; returns their paths.

    A sample that cannot be drawn raises, or goes to ``on_problem``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for n, (clip, expression_id) in enumerate(_spread(dataset, count)):
        try:
            sample = dataset.get(clip, expression_id)
            name = re.sub(r"[^\w.-]+", "_", f"{dataset.name}_{dataset.split}_{n:02d}_{clip}_{expression_id}")
            path = folder / f"{name[:150]}.png"
            _save(path, sheet(sample))
            written.append(path)
        except DataError as e:
            if on_problem is None:
                raise
            on_problem(e)
    return written


def sheet(sample: Sample) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: up to six frames with outlines, the question above, each frame's index in its corner.

    The frames are spread over the time in which a target shows, or over the clip where none does.
    """
    from PIL import Image, ImageDraw

    total = sample.clip.num_frames
    seen = np.flatnonzero(sample.masklets.existence()) if sample.masklets is not None else np.zeros(0, int)
    first, last = (int(seen[0]), int(seen[-1])) if len(seen) else (0, total - 1)
    frames = evenly_spaced(first, last, COLUMNS)
    tiles = [_tile(sample, t) for t in frames]
    body: Any = Image.new("RGB", (max(320, sum(t.shape[1] for t in tiles)), HEADER + TILE_HEIGHT), (24, 24, 24))
    draw = ImageDraw.Draw(body)
    e = sample.expression
    facts = f"{len(e.anno_ids)} objects" + (f", {e.kind}" if e.kind else "")
    facts += f", type {e.type_id}" if e.type_id is not None else ""
    draw.text((4, 2), f"{sample.id}: {_plain(e.text)}", fill=(255, 255, 255))
    draw.text((4, 17), f"{facts}, {total} frames, visible in {len(seen)}", fill=(190, 190, 190))
    left = 0
    for t, tile in zip(frames, tiles, strict=True):
        body.paste(Image.fromarray(tile), (left, HEADER))
        draw.text((left + 4, HEADER + 2), str(t), fill=(255, 255, 0))
        left += tile.shape[1]
    return np.asarray(body)


def _tile(sample: Sample, frame: int) -> NDArray[np.uint8]:
    import cv2

    image: Any = np.asarray(load_frame(sample.clip, frame))
    width = max(1, round(image.shape[1] * TILE_HEIGHT / image.shape[0]))
    tile: Any = cv2.resize(image, (width, TILE_HEIGHT), interpolation=cv2.INTER_AREA)
    objects = range(len(sample.masklets.rles)) if sample.masklets is not None else ()
    for o in objects:
        assert sample.masklets is not None
        mask: Any = sample.masklets.object_mask(o, frame).astype(np.uint8)
        small = cv2.resize(mask, (width, TILE_HEIGHT), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, COLORS[o % len(COLORS)], 2)
    return np.asarray(tile)


def _spread(dataset: Dataset, count: int) -> Iterator[tuple[str, str]]:
    """(clip, expression id) of clips at even distances, another expression of each in turn."""
    clips = dataset.clips()
    for n, i in enumerate(evenly_spaced(0, len(clips) - 1, count) if clips else []):
        ids = [e.id for e in dataset.expressions(clips[i])]
        if ids:
            yield clips[i], ids[n % len(ids)]


def _plain(text: str) -> str:
    """What the built-in font can draw."""
    return text.encode("latin1", "replace").decode("latin1")


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    from PIL import Image

    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(image).save(partial, format="PNG")
    partial.replace(path)
