"""Pictures travel by reference; the process that computes with their pixels reads them, once for all who show them.

A dialogue's ``multi_modal_inputs`` hold ``image_grid_thw`` (N, 3) as ever and, in the place of ``pixel_values``,
``pictures`` (N, 3) int64: frame of the dialogue's clip, height and width in pixels. Where some bear the policy's own
masks, ``drawn`` has these as text, a line a picture, in uint8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rollout.chat_format import ChatFormat
from rollout.messages import FramePart
from rollout.pictures import Key, Picture, PictureStore
from rollout.types import Sample

DRAWN = "drawn"
STORE_BYTES = 256 << 20
"""Of a process that no recipe told otherwise (``policy.pictures_gib``)."""

KEPT_BYTES = 512 << 20
"""``pixel_values`` that an engine on a CPU keeps for its next pass, float32."""


@cache
def process_store() -> PictureStore:
    """One for all engines of a process: actor and reference read the same pictures."""
    return PictureStore(STORE_BYTES)


def keep_pictures(gib: float) -> None:
    """Let this process keep so much of decoded pictures (``policy.pictures_gib``)."""
    process_store().limit = int(gib * (1 << 30))


def picture_inputs(frames: Sequence[FramePart], chat: ChatFormat) -> dict[str, Tensor]:
    """A dialogue's ``multi_modal_inputs`` as they travel; empty if it shows nothing."""
    if not frames:
        return {}
    out = {
        "image_grid_thw": torch.tensor([chat.grid(f) for f in frames]),
        "pictures": torch.tensor([(f.frame, f.height, f.width) for f in frames]),
    }
    if any(f.drawn is not None for f in frames):
        text = "\n".join(f.drawn or "" for f in frames) + "\n"
        out[DRAWN] = torch.tensor(list(text.encode("ascii")), dtype=torch.uint8)
    return out


def pictures_of(sample: Sample, inputs: dict[str, Any] | None) -> list[Picture]:
    """What a dialogue about ``sample`` shows, in order."""
    inputs = inputs or {}
    shown, drawn = inputs.get("pictures"), inputs.get(DRAWN)
    if shown is None:
        return []
    masks = [""] * len(shown) if drawn is None else bytes(drawn.tolist()).decode("ascii").split("\n")[:-1]
    rows: list[list[int]] = shown.tolist()
    return [Picture(sample.clip, t, h, w, mask or None) for (t, h, w), mask in zip(rows, masks, strict=True)]


class PixelValues:
    """``pixel_values`` from references, by the policy's own image processor."""

    def __init__(
        self, image_processor: Any, device: torch.device | str = "cpu", store: PictureStore | None = None
    ) -> None:
        """device: where they are made from uint8; the numbers are the same."""
        self._processor, self._device = image_processor, torch.device(device)
        self._kept: dict[Key, Tensor] = {}
        self._bytes = 0
        self._store = process_store() if store is None else store

    def read_ahead(self, pictures: Iterable[Picture]) -> None:
        """Begin to read pictures that a pass will need."""
        self._store.read_ahead(pictures)

    def of(self, pictures: Sequence[Picture]) -> Tensor:
        """(patches, values of a patch) float32 on the device, those of each picture one after another.

        Equal to what the image processor makes of the decoded images; a picture that comes twice is made once.

        Raises:
            DataError: one cannot be read; names clip, frame and file.
        """
        missing = {p.key: p for p in pictures if p.key not in self._kept}
        found = {p.key: self._kept[p.key] for p in pictures if p.key in self._kept}
        if missing:
            images = self._store.get(list(missing.values()))
            made = self._made([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
            found |= zip(missing, made, strict=True)
            self._keep({key: found[key] for key in missing})
        return torch.cat([found[p.key] for p in pictures])

    def _keep(self, made: dict[Key, Tensor]) -> None:
        """On a CPU for the next pass, oldest out first; a GPU makes them anew faster than it would hold them."""
        if self._device.type != "cpu":
            return
        for key, patches in made.items():
            self._kept[key] = patches.clone()  # not a view of all that were made together
            self._bytes += patches.nbytes
        while self._bytes > KEPT_BYTES:
            self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes

    def _made(self, images: list[Tensor]) -> Sequence[Tensor]:
        found = self._processor(images=[x.to(self._device) for x in images], return_tensors="pt", device=self._device)
        return found["pixel_values"].split(found["image_grid_thw"].prod(dim=1).tolist())  # type: ignore[no-any-return]
