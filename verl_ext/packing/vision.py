"""What a vision tower takes, indices included, made on the host.

transformers makes them on the device, some fifty tiny kernels a picture in every pass; here each size of picture is
done once. Both towers (Qwen3-VL's, and Qwen2.5-VL's with windows) take ready indices as keywords.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Tower:
    """What the indices depend on."""

    image_token: int
    merge: int
    """Side of the patches that make one token."""
    patch_values: int
    """Pixel values of a patch."""
    table: int = 0
    """Side of the table of learned positions; 0 without."""
    window: int = 0
    """Side of a window in pixels; 0 without."""
    patch: int = 16
    """Side of a patch in pixels."""

    @classmethod
    def of(cls, config: Any) -> Tower:
        """Of a Qwen3-VL or Qwen2.5-VL configuration."""
        v = config.vision_config
        channels = getattr(v, "in_channels", 3)
        return cls(
            image_token=config.image_token_id,
            merge=v.spatial_merge_size,
            patch_values=channels * v.temporal_patch_size * v.patch_size**2,
            table=round(getattr(v, "num_position_embeddings", 0) ** 0.5),
            window=getattr(v, "window_size", 0),
            patch=v.patch_size,
        )

    @property
    def smallest(self) -> Grid:
        """The smallest picture that there can be."""
        return (1, self.merge, self.merge)


def tower_inputs(tower: Tower, grids: Sequence[Grid], pixels: Sequence[Tensor]) -> dict[str, Any]:
    """Keywords of the tower's forward for these pictures, in order; ``pixels``: (patches, values) of some each."""
    found = [picture_indices(grid, tower) for grid in grids]
    patches = [t * h * w for t, h, w in grids]
    out: dict[str, Any] = {
        "hidden_states": torch.cat(list(pixels)),
        "grid_thw": torch.tensor(grids),
        "cu_seqlens": offsets([h * w for t, h, w in grids for _ in range(t)]),
        "position_ids": torch.cat([f["position_ids"] for f in found]),
        "row_picture": max(h * w for _, h, w in grids),
    }
    for name in ("bilinear_indices", "bilinear_weights"):
        if tower.table:
            out[name] = torch.cat([f[name] for f in found], 1)
    if tower.window:
        starts = torch.tensor([0, *patches]).cumsum(0).tolist()
        tokens = [s // tower.merge**2 for s in starts]
        out["window_index"] = torch.cat([f["window_index"] + s for f, s in zip(found, tokens, strict=False)])
        ends = [f["cu_window_seqlens"][1:] + s for f, s in zip(found, starts, strict=False)]
        out["cu_window_seqlens"] = F.pad(torch.cat(ends), (1, 0)).to(torch.int32)
    return out


@lru_cache(maxsize=256)
def picture_indices(grid: Grid, tower: Tower) -> dict[str, Tensor]:
    """One picture's: (patches, 2) rotary rows and columns; (4, patches) corners in the table and their weights; the
    order by windows and the windows' ends."""
    from transformers import vision_utils as v

    one = torch.tensor([grid])
    out = {"position_ids": v.get_vision_position_ids(one, tower.merge)}
    if tower.table:
        corners = v.get_vision_bilinear_indices_and_weights(one, tower.table, tower.merge)
        out["bilinear_indices"], out["bilinear_weights"] = corners
    if tower.window:
        windows = v.get_vision_window_index(one, tower.merge, tower.window, tower.patch)
        out["window_index"], out["cu_window_seqlens"] = windows
    return out


def offsets(lengths: Sequence[int]) -> Tensor:
    """(n + 1,) int32."""
    return F.pad(torch.tensor(list(lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
