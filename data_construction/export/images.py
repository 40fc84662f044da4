"""The pictures behind a trace's ``<image>``: where they lie, and at which size the policy sees them."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_construction.traces import Trace, shown_images
from data_construction.traces.shown import ImageSizes
from rollout.errors import DataError
from rollout.frames import load_frame_resized
from rollout.types import Clip, Sample

Mode = Literal["link", "copy", "embed"]
MODES = ("link", "copy", "embed")
IN_VIDEO = "#"
"""``clip.mp4#12`` is a frame of a video: no trainer opens that, so it is copied even where frames are linked."""
QUALITY = 95


@dataclass(frozen=True)
class Image:
    """One picture of a conversation; height and width in pixels as shown."""

    path: str
    height: int
    width: int
    content: bytes | None = None
    """JPEG, where pictures are embedded."""


@dataclass
class ImageStore:
    """``link``: the data set's own frame files. ``copy``: JPEGs at the shown size under ``folder``, each written once.
    ``embed``: the same JPEGs inside the exported file.
    """

    folder: Path
    mode: Mode = "link"
    sizes: ImageSizes = field(default_factory=ImageSizes)

    def images(self, trace: Trace, sample: Sample) -> list[Image]:
        """In the order of the placeholders. Raises DataError (trace or clip, frame and file named)."""
        clip = sample.clip
        out = []
        for message in shown_images(trace, clip.num_frames):
            for shown in message:
                if not 0 <= shown.frame < clip.num_frames:
                    raise DataError(f"trace {trace.id}: frame {shown.frame} outside 0..{clip.num_frames - 1}")
                height, width = self.sizes.size(shown.role, clip.height, clip.width)
                out.append(self._image(trace, clip, shown.frame, height, width))
        return out

    def _image(self, trace: Trace, clip: Clip, frame: int, height: int, width: int) -> Image:
        source = clip.frames[frame]
        if self.mode == "link" and IN_VIDEO not in source:
            if not Path(source).is_file():
                raise DataError(f"trace {trace.id}: clip {clip.name}, frame {frame}, file {source}: does not exist")
            return Image(source, height, width)
        if self.mode == "embed":
            return Image("", height, width, _jpeg(clip, frame, height, width))
        name = f"{trace.dataset or 'clips'}/{clip.name}/{frame:05d}_{height}x{width}.jpg"
        path = self.folder / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            partial.write_bytes(_jpeg(clip, frame, height, width))
            os.replace(partial, path)
        return Image(str(path), height, width)


def _jpeg(clip: Clip, frame: int, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    load_frame_resized(clip, frame, height, width).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()
