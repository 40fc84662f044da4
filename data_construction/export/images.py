"""The pictures behind a trace's ``<image>``: where they lie, and at which size the policy sees them."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from data_construction.partials import partial_of
from data_construction.traces import Trace, shown_images
from data_construction.traces.shown import ImageSizes
from rollout.errors import DataError
from rollout.frames import load_frame_resized
from rollout.types import Clip, Sample
from rollout.video import split_frame_path

Mode = Literal["link", "copy", "embed"]
MODES = ("link", "copy", "embed")
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
    ``embed``: the same JPEGs inside the exported file. No trainer opens a frame of a video, so those are copied even
    where frames are linked.
    """

    folder: Path
    mode: Mode = "link"
    sizes: ImageSizes = field(default_factory=ImageSizes)

    def images(self, trace: Trace, sample: Sample) -> list[Image]:
        """In the order of the placeholders. Raises DataError (trace or clip, frame and file named)."""
        clip, sizes = sample.clip, self.sizes.of(trace)
        out = []
        for message in shown_images(trace, clip.num_frames):
            for shown in message:
                if not 0 <= shown.frame < clip.num_frames:
                    raise DataError(f"trace {trace.id}: frame {shown.frame} outside 0..{clip.num_frames - 1}")
                height, width = sizes.size(shown.role, clip.height, clip.width)
                out.append(self._image(trace, clip, shown.frame, height, width))
        return out

    def _image(self, trace: Trace, clip: Clip, frame: int, height: int, width: int) -> Image:
        source = clip.frames[frame]
        if self.mode == "link" and split_frame_path(source) is None:
            if not Path(source).is_file():
                raise DataError(f"trace {trace.id}: clip {clip.name}, frame {frame}, file {source}: does not exist")
            return Image(source, height, width)
        if self.mode == "embed":
            return Image("", height, width, _jpeg(clip, frame, height, width))
        version = _version(source, f"trace {trace.id}: clip {clip.name}, frame {frame}")
        path = self.folder / _folder_of(trace) / f"{frame:05d}_{version}_{height}x{width}.jpg"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = partial_of(path)
            partial.write_bytes(_jpeg(clip, frame, height, width))
            os.replace(partial, path)
        return Image(str(path), height, width)


def _folder_of(trace: Trace) -> PurePosixPath:
    """``<data set>/<clip>``. Raises DataError for names that lead elsewhere."""
    folder = PurePosixPath(trace.dataset or "clips") / trace.clip
    if folder.is_absolute() or ".." in folder.parts or "\0" in str(folder):
        raise DataError(f"trace {trace.id}: its pictures cannot lie in {str(folder)!r}; rename data set or clip")
    return folder


def _version(source: str, where: str) -> str:
    """Stands for the frame's file as it is now: another root, or a frame that was mended, has another picture.

    Raises DataError if the file is missing.
    """
    inside = split_frame_path(source)
    path = Path(inside[0] if inside else source)
    try:
        stat = path.stat()
    except OSError as e:
        raise DataError(f"{where}, file {path}: does not exist ({e.strerror})") from e
    text = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def _jpeg(clip: Clip, frame: int, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    load_frame_resized(clip, frame, height, width).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()
