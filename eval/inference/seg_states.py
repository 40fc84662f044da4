"""The projected hidden states at a finished dialogue's ``[SEG]`` tokens: one forward over the whole dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollout.conversation import Conversation
from rollout.episode import seg_of_turns
from rollout.types import Episode


def pixels_of(processor: Any, conversation: Conversation) -> Any:
    """What the vision tower takes of all images of a dialogue; work for a CPU thread of its own."""
    return processor.image_processor(images=conversation.images(), return_tensors="pt")


def seg_states(
    model: Any, conversation: Conversation, episode: Episode, pixels: Any, device: str
) -> list[np.ndarray[Any, Any] | None]:
    """Per turn (C,) float32 at the ``[SEG]`` that draws (`seg_of_turns`), None without one.

    Args:
        model: a policy with its head, see ``verl_ext.policy.checkpoint.load_policy``.
        pixels: what `pixels_of` made of this conversation.
    """
    import torch

    drawing = zip(episode.turns, seg_of_turns(episode), strict=True)
    wanted = [None if place is None else turn.seg_positions[place] for turn, place in drawing]
    positions = [p for p in wanted if p is not None]
    if not positions:
        return [None] * len(wanted)
    ids = torch.tensor([conversation.token_ids[: max(positions) + 1]])
    keep = images_covering(conversation, int((ids == conversation.chat.image_pad).sum()))
    grid = pixels["image_grid_thw"][:keep]
    rows = int(grid.prod(dim=1).sum())
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, positions] = True
    with torch.inference_mode():
        out = model(
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            position_ids=torch.tensor(conversation.position_ids())[:, None, : ids.shape[1]].to(device),
            pixel_values=pixels["pixel_values"][:rows].to(device, model.dtype),
            image_grid_thw=grid.to(device),
            seg_mask=mask.to(device),
            logits_to_keep=1,
            use_cache=False,
        )
    found = iter(out.seg_states.float().cpu().numpy())
    return [None if p is None else next(found) for p in wanted]


def collapse_runs(token_ids: Sequence[int], pad: int) -> list[int]:
    """One placeholder an image, as vLLM wants it: it expands them again itself."""
    return [t for i, t in enumerate(token_ids) if t != pad or i == 0 or token_ids[i - 1] != pad]


def images_covering(conversation: Conversation, pads: int) -> int:
    """How many of the conversation's images the first ``pads`` placeholders belong to."""
    total = 0
    for n, (t, h, w) in enumerate(conversation.grids):
        if total >= pads:
            return n
        total += t * h * w // conversation.chat.merge**2
    return len(conversation.grids)
