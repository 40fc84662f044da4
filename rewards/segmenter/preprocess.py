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


def preprocess(frames: Sequence[Image.Image | NDArray[np.uint8]], size: int) -> Tensor:
    """(F, 3, size, size) float32, ImageNet-normalised, on the CPU; the aspect ratio is not kept (SPEC 2.2).

    Resized by PIL's bicubic, as sam2's own frame loader and the released model do.
    """
    out = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        image = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        out[i] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    return normalise(torch.from_numpy(out))


def normalise(frames: Tensor) -> Tensor:
    """(F, S, S, 3) uint8 of any device -> (F, 3, S, S) float32 there, ImageNet-normalised."""
    pixels = frames.permute(0, 3, 1, 2).float() / 255.0
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std
