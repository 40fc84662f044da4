"""Frames to the encoder's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resize(
    frames: Sequence[Image.Image | NDArray[np.uint8]],
    size: int,
    filter: Image.Resampling = Image.Resampling.BICUBIC,
) -> Tensor:
    """(F, size, size, 3) uint8 on the CPU; the aspect ratio is not kept (SPEC 2.2).

    By PIL's bicubic, as sam2's own frame loader and the released model do.
    """
    out = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        image = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        out[i] = np.asarray(image.convert("RGB").resize((size, size), filter))
    return torch.from_numpy(out)


def normalise(frames: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """(F, S, S, 3) uint8 of any device -> (F, 3, S, S) float32 there, ImageNet-normalised unless told otherwise."""
    pixels = frames.permute(0, 3, 1, 2).float() / 255.0
    middle, spread = (torch.tensor(values, device=frames.device)[:, None, None] for values in (mean, std))
    return (pixels - middle) / spread
