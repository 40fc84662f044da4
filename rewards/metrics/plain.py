"""The definition of J and F once more, in plain numpy and OpenCV: slow, obvious, the oracle of tests and benchmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewards.metrics.boundary import boundary_radius

Mask = NDArray[np.bool_]


def plain_j(pred: Mask, gt: Mask) -> float:
    """Region J of one (H, W) frame."""
    union = np.sum(pred | gt)
    return 1.0 if union == 0 else float(np.sum(pred & gt) / union)


def plain_f(pred: Mask, gt: Mask) -> float:
    """Boundary F of one (H, W) frame: dilate either boundary by the disk and count what it covers of the other."""
    import cv2

    radius = boundary_radius(*gt.shape)
    x = np.arange(-radius, radius + 1)
    disk = (x[:, None] ** 2 + x[None, :] ** 2 <= radius**2).astype(np.uint8)
    p, g = boundary_pixels(pred), boundary_pixels(gt)
    near_p = cv2.dilate(p.astype(np.uint8), disk).astype(np.bool_)
    near_g = cv2.dilate(g.astype(np.uint8), disk).astype(np.bool_)
    n_p, n_g = np.sum(p), np.sum(g)
    if n_p == 0 or n_g == 0:
        return float(n_p == n_g)
    precision, recall = np.sum(p & near_g) / n_p, np.sum(g & near_p) / n_g
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def boundary_pixels(mask: Mask) -> Mask:
    """(H, W): pixels that differ from their east, south or south-east neighbour inside the frame."""
    east, south, south_east = (np.zeros_like(mask) for _ in range(3))
    east[:, :-1], south[:-1], south_east[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ east) | (mask ^ south) | (mask ^ south_east)
    edge[-1] = mask[-1] ^ east[-1]
    edge[:, -1] = mask[:, -1] ^ south[:, -1]
    edge[-1, -1] = False
    return edge
