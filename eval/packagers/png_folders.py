"""The layout that most servers share: one folder a clip, in it one an expression, in it one PNG a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from eval.packagers.base import Answer, Entry, Packager, frame_name
from eval.packagers.masks import mask_png, png_problems
from rollout.types import Clip, Expression


class PngFolders(Packager):
    """``<prefix><clip>/<expression id>/<frame>.png``: 8-bit grey, 0 and 255, of the frames' size."""

    prefix = ""
    largest = 1 << 25

    def entries(self, clip: Clip, answers: Sequence[Answer]) -> Iterator[Entry]:
        for answer in answers:
            for path, rle in zip(self.paths(clip, [answer.expression]), answer.masks, strict=True):
                yield Entry(path, partial(mask_png, rle, clip.height, clip.width))

    def paths(self, clip: Clip, expressions: Sequence[Expression]) -> list[str]:
        frames = [frame_name(frame) for frame in clip.frames]
        return [f"{self.prefix}{clip.name}/{e.id}/{frame}.png" for e in expressions for frame in frames]

    def problems(self, clip: Clip, expressions: Sequence[Expression], path: str, content: bytes) -> Iterable[str]:
        return png_problems(content, clip.height, clip.width)
