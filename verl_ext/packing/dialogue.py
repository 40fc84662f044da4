"""One sequence of a batch as the rows need it: tokens, positions, which of them are scored, where its prompt ends.

Shape legend: L tokens of a sequence, N pictures, patches of all its pictures together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from rollout.errors import DataError
from rollout.pictures import Picture

Pixels = Tensor | Sequence[Picture]
"""Of some pictures: (patches, pixels of a patch), or what to read them from."""


@dataclass
class Dialogue:
    """All on the host."""

    ids: Tensor
    """(L,) int64."""
    positions: Tensor
    """(3, L) int64: time, height and width of the sequence's own rotary positions."""
    scored: Tensor
    """(L,) bool: the policy sampled this token (users' turns and pictures are not scored)."""
    prompt: int
    """Tokens that other rollouts of its group may share; 0 in supervised data."""
    pixels: Tensor | None = None
    """(patches, pixels of a patch), where the batch carries them."""
    shown: Sequence[Picture] = ()
    """Its N pictures by reference, where it does not."""
    grids: Tensor | None = None
    """(N, 3) int64: time, rows and columns of patches."""
    group: str = ""
    """The prompt that it was sampled for (verl's uid), where that is known."""
    prompt_tokens: int = 0
    """Image tokens of the prompt, see `count_pictures`."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def patches(self) -> list[int]:
        """Of each picture."""
        return [] if self.grids is None else self.grids.prod(1).tolist()

    def pictures(self, first: int, last: int | None) -> tuple[list[tuple[int, int, int]], Pixels]:
        """Grids of its pictures ``first`` .. ``last``, and their pixels or references."""
        if self.grids is None:
            return [], []
        grids = [(t, h, w) for t, h, w in self.grids[first:last].tolist()]
        if self.pixels is None:
            return grids, self.shown[first:last]
        start = sum(self.patches[:first])
        return grids, self.pixels[start : start + sum(self.patches[first:last])]

    def prompt_pictures(self, merge: int) -> int:
        """How many pictures its prompt shows; ``merge``: side of the patches that make one token.

        Raises:
            DataError: a picture's tokens are not all in the prompt, nor all behind it.
        """
        ends = [0, *accumulate(patches // merge**2 for patches in self.patches)]
        if self.prompt_tokens not in ends:
            raise DataError(
                f"a prompt of {self.prompt} tokens has {self.prompt_tokens} image tokens, but its pictures have "
                f"{self.patches} patches: one of them is cut; check rollout.prompt_length"
            )
        return ends.index(self.prompt_tokens)


def read_dialogues(
    batch: Any,
    image_token: int,
    rows_of: Callable[[Any, str], list[Any]],
    pictures: Sequence[Sequence[Picture]] = (),
) -> list[Dialogue]:
    """The sequences of a verl batch (no padding, jagged), in order.

    Args:
        batch: with ``input_ids``, ``position_ids`` (4 rows), ``multi_modal_inputs``; of rollouts also ``prompts`` and
            ``response_mask``, of supervised data ``loss_mask`` over the whole sequence.
        rows_of: Python objects of a column of it.
        pictures: what each sequence shows, where ``multi_modal_inputs`` hold references and no pixels.
    """
    ids = _rows(batch["input_ids"])
    columns = batch.keys()
    found = batch["position_ids"]
    spans = batch["input_ids"].offsets().tolist()
    positions = found.values().cpu()
    positions = positions[-3:] if positions.dim() == 2 else positions.expand(3, -1)
    images = rows_of(batch, "multi_modal_inputs") if "multi_modal_inputs" in columns else [{}] * len(ids)
    groups = rows_of(batch, "uid") if "uid" in columns else [""] * len(ids)
    rollouts = "response_mask" in columns
    prompts = batch["prompts"].offsets().diff().tolist() if rollouts else [0] * len(ids)
    masks = _rows(batch["response_mask" if rollouts else "loss_mask"])
    out = []
    for i, x in enumerate(ids):
        scored = torch.cat([torch.zeros(len(x) - len(masks[i]), dtype=torch.bool), masks[i].bool()])
        scored[:1] = False  # nothing predicts the first token
        shown = images[i] or {}
        out.append(
            Dialogue(
                ids=x,
                positions=positions[:, spans[i] : spans[i + 1]],
                scored=scored,
                prompt=prompts[i],
                pixels=shown.get("pixel_values"),
                shown=pictures[i] if pictures else (),
                grids=_tensor(shown.get("image_grid_thw")),
                group=str(groups[i]),
                prompt_tokens=int((x[: prompts[i]] == image_token).sum()),
            )
        )
    return out


def find_groups(dialogues: Sequence[Dialogue], merge: int) -> list[list[int]]:
    """Which sequences begin with the same prompt and pictures, whatever their order; those without a prompt are alone.

    Raises:
        DataError: two rollouts of one prompt (verl's uid) were shown other pictures under the same words.
    """
    groups: list[list[int]] = []
    by_words: dict[bytes, list[list[int]]] = {}
    for i, dialogue in enumerate(dialogues):
        if not dialogue.prompt:
            groups.append([i])
            continue
        key = dialogue.ids[: dialogue.prompt].numpy().tobytes()
        alike = by_words.setdefault(key, [])
        home = next((g for g in alike if _same_pictures(dialogues[g[0]], dialogue, merge)), None)
        if home is not None:
            home.append(i)
            continue
        other = next((g for g in alike if dialogue.group and dialogues[g[0]].group == dialogue.group), None)
        if other is not None:
            raise DataError(
                f"prompt {dialogue.group}: rollouts {other[0]} and {i} of this process have the same {dialogue.prompt} "
                "tokens, but other pictures in them; a group must be shown one choice of frames. Correct the "
                "environment that chooses them, or set policy.packing=packed, which shares nothing"
            )
        alike.append([i])
        groups.append(alike[-1])
    return groups


def _same_pictures(one: Dialogue, two: Dialogue, merge: int) -> bool:
    n = one.prompt_pictures(merge)
    if n != two.prompt_pictures(merge):
        return False
    (grids, pixels), (more_grids, more_pixels) = one.pictures(0, n), two.pictures(0, n)
    if grids != more_grids:
        return False
    if isinstance(pixels, Tensor) and isinstance(more_pixels, Tensor):
        return pixels.data_ptr() == more_pixels.data_ptr() or torch.equal(pixels, more_pixels)
    return [p.key for p in one.shown[:n]] == [p.key for p in two.shown[:n]]


def _tensor(found: Any) -> Tensor | None:
    return None if found is None else torch.as_tensor(found)


def _rows(jagged: Any) -> list[Tensor]:
    offsets = jagged.offsets().tolist()
    values = jagged.values().cpu()
    return [values[a:b] for a, b in pairwise(offsets)]
