"""Putting drawn pixels into files: JPEG frames, mp4, palette and grey PNG masks."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.layouts.clips import DrawnClip
from rollout.errors import DataError

JPEG_QUALITY = 92


def frame_names(clip: DrawnClip, step: int = 1) -> list[str]:
    """``00000``, ``00005`` ... as most data sets name frames."""
    return [f"{step * t:05d}" for t in range(clip.num_frames)]


def write_frames(folder: Path, clip: DrawnClip, names: list[str]) -> None:
    """One JPEG a frame, ``<name>.jpg``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, clip.frames, strict=True):
        write_jpeg(folder / f"{name}.jpg", frame)


def write_jpeg(path: Path, frame: NDArray[np.uint8]) -> None:
    """One (H, W, 3) RGB frame."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"{path}: OpenCV could not encode the frame as JPEG")
    path.write_bytes(data.tobytes())


def write_video(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """(T, H, W, 3) RGB frames as H.264 with a key frame every six and frames that refer to later ones."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.gop_size, stream.max_b_frames = 6, 2
        stream.options = {"crf": "12", "preset": "ultrafast", "bf": "2", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def write_palette(path: Path, masks: NDArray[np.bool_]) -> None:
    """(K, H, W) masks as one palette PNG in which object k is the value k + 1."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(masks.shape[1:], np.uint8)
    for k, mask in enumerate(masks):
        values[mask] = k + 1
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128])
    image.save(path)


def write_grey(path: Path, mask: NDArray[np.bool_]) -> None:
    """One (H, W) mask as a grey PNG of 0 and 255."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def write_json(path: Path, value: Any) -> None:
    """Compact JSON; the folder around it is made first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def one_object(clip: DrawnClip) -> list[tuple[str, int]]:
    """(text, object) for every object: the clip's own text where one means just that object."""
    own = {e.targets[0]: e.text for e in reversed(clip.expressions) if len(e.targets) == 1}
    return [(own.get(k, f"shape number {k + 1}"), k) for k in range(len(clip.masks))]


def shown_frame(clip: DrawnClip) -> int:
    """The frame of an image data set: where most objects are to be seen, the middle one of equals."""
    visible = clip.masks.any((2, 3)).sum(0)
    best = np.flatnonzero(visible == visible.max())
    return int(best[len(best) // 2])
