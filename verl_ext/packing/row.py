"""From sequences to one row of tokens, on the host; see ``docs/design.md`` for the picture.

Shape legend: T tokens of a row, M scored tokens, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rollout.pictures import Picture
from verl_ext.packing.deal import Unit
from verl_ext.packing.dialogue import Dialogue
from verl_ext.packing.vision import Grid, Tower, offsets, tower_inputs


class Row:
    """One forward pass. No dataclass on purpose: FSDP2 rounds floats that it finds in a forward's arguments."""

    def __init__(self, **parts: Any) -> None:
        self.ids: Tensor = parts["ids"]
        """(1, T)"""
        self.text: dict[str, Any] = parts["text"]
        """What the language model takes beside its embeddings: position_ids (3, 1, T) and the layout."""
        self.vision: dict[str, Any] = parts["vision"]
        """What the vision tower takes; one picture that nobody sees if the row shows none."""
        self.image_rows: Tensor = parts["image_rows"]
        """Rows that the tower's output replaces, in its order."""
        self.scored_at: Tensor = parts["scored_at"]
        """(M,) row whose hidden state predicts the token: a prompt's last one once for every rollout."""
        self.labels: Tensor = parts["labels"]
        """(M,)"""
        self.home: Tensor = parts["home"]
        """(M,) where the log-prob belongs among the sequences' tokens, one after the other (verl: one to the left)."""
        self.starts: list[tuple[int, int, int]] = parts["starts"]
        """Of each sequence: row of its first token, its shared tokens, row of the first token behind those."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Row:
        """With ``change`` applied to every tensor."""
        return Row(**{name: _apply(value, change) for name, value in vars(self).items()})

    def to(self, device: Any) -> Row:
        return self.map(lambda x: x.to(device, non_blocking=True))

    def rows_of(self, positions: Sequence[Sequence[int]]) -> Tensor:
        """Rows of some tokens of each sequence, one after the other."""
        found = [
            first + p if p < shared else own + p - shared
            for (first, shared, own), tokens in zip(self.starts, positions, strict=True)
            for p in tokens
        ]
        return torch.tensor(found, dtype=torch.long)


def _apply(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, dict):
        return {k: _apply(y, change) for k, y in x.items()}
    return change(x) if isinstance(x, Tensor) else x


def lay_out(
    units: Sequence[Unit],
    dialogues: Sequence[Dialogue],
    tower: Tower,
    pixels_of: Callable[[Sequence[Picture]], Tensor] | None = None,
) -> Row:
    """One row of ``units``: shared prompts, their responses, then sequences that share nothing.

    Sequences count in the order in which the units name them. ``pixels_of`` reads pictures that came by reference.
    """
    shared, alone = [u for u in units if len(u) > 1], [u[0] for u in units if len(u) == 1]
    blocks: list[tuple[int, slice]] = [(u[0], slice(0, dialogues[u[0]].prompt)) for u in shared]
    blocks += [(i, slice(dialogues[i].prompt, None)) for u in shared for i in u]
    blocks += [(i, slice(None)) for i in alone]

    prompt_rows = torch.tensor([0] + [dialogues[u[0]].prompt for u in shared]).cumsum(0).tolist()
    starts: dict[int, tuple[int, int, int]] = {}
    row = prompt_rows[-1]
    for u, first in zip(shared, prompt_rows, strict=False):
        for i in u:
            starts[i] = (first, dialogues[i].prompt, row)
            row += len(dialogues[i]) - dialogues[i].prompt
    answers = row - prompt_rows[-1]
    for i in alone:
        starts[i] = (row, 0, row)
        row += len(dialogues[i])

    ids = torch.cat([dialogues[i].ids[part] for i, part in blocks])
    lengths = [len(dialogues[i].ids[part]) for i, part in blocks]
    prompts = [dialogues[u[0]].prompt for u in shared]
    queries = [sum(len(dialogues[i]) - dialogues[i].prompt for i in u) for u in shared]
    order = [i for u in units for i in u]
    scored_at, labels, home, before = [], [], [], 0
    for i in order:
        tokens = dialogues[i].scored.nonzero()[:, 0]
        first, own, behind = starts[i]
        scored_at.append(torch.where(tokens - 1 < own, first + tokens - 1, behind + tokens - 1 - own))
        labels.append(dialogues[i].ids[tokens])
        home.append(before + tokens - 1)
        before += len(dialogues[i])
    return Row(
        ids=ids[None],
        text={
            "position_ids": torch.cat([dialogues[i].positions[:, part] for i, part in blocks], 1)[:, None],
            "row_blocks": offsets([n for n in lengths if n]),
            "row_queries": offsets(queries),
            "row_prompts": offsets(prompts),
            "row_longest": (max(lengths), max(queries, default=0), max(prompts, default=0)),
            "row_shared": (prompt_rows[-1], answers),
        },
        vision=_vision(blocks, dialogues, tower, pixels_of),
        image_rows=(ids == tower.image_token).nonzero()[:, 0],
        scored_at=torch.cat(scored_at),
        labels=torch.cat(labels),
        home=torch.cat(home),
        starts=[starts[i] for i in order],
    )


def _vision(
    blocks: Sequence[tuple[int, slice]],
    dialogues: Sequence[Dialogue],
    tower: Tower,
    pixels_of: Callable[[Sequence[Picture]], Tensor] | None,
) -> dict[str, Any]:
    grids: list[Grid] = []
    pixels: list[Tensor] = []
    references: list[Picture] = []
    for i, part in blocks:
        n = dialogues[i].prompt_pictures(tower.merge) if dialogues[i].prompt else 0
        first, last = (n, None) if part.start else (0, n) if part.stop else (0, None)
        found, values = dialogues[i].pictures(first, last)
        grids += found
        if isinstance(values, Tensor):
            pixels.append(values)
        else:
            references += values
    if references:
        assert pixels_of is not None and not pixels, "pixels or references, and somebody who reads them"
        pixels = [pixels_of(references)]  # all of the row at once: a picture that comes twice is made once
    if not grids:  # processes whose rows show pictures must not wait for this one's tower
        grids = [tower.smallest]
        pixels = [torch.zeros(tower.merge**2, tower.patch_values)]
    return tower_inputs(tower, grids, pixels)
