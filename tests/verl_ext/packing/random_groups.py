"""Tiny random Qwen-VLs with weights large enough that attention is not flat, and random groups of dialogues."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from verl_ext.packing.dialogue import Dialogue

PLAIN, VOCABULARY = 96, 112
VISION_START, VISION_END, IMAGE = PLAIN, PLAIN + 1, PLAIN + 2
PATCH_VALUES = 3 * 2 * 16 * 16
GRIDS = ((4, 4), (6, 2), (2, 8), (4, 6), (2, 2))


def tiny_model(kind: str, seed: int = 0) -> Any:
    """A ``qwen3_vl`` or ``qwen2_5_vl`` of transformers, SDPA attention, float32."""
    import transformers as t

    torch.manual_seed(seed)
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "rms_norm_eps": 1e-6,
    }
    vision = {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "patch_size": 16}
    tokens = {
        "image_token_id": IMAGE,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
        "video_token_id": VOCABULARY - 1,
    }
    if kind == "qwen3_vl":
        rope = {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        config = t.Qwen3VLConfig(
            text_config=text | {"head_dim": 16, "rope_parameters": rope, "tie_word_embeddings": True},
            vision_config=vision
            | {"out_hidden_size": 64, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 36},
            tie_word_embeddings=True,
            **tokens,
        )
        model = t.Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    else:
        rope = {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [4, 2, 2]}
        config = t.Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": rope, "use_sliding_window": False},
            vision_config=vision | {"out_hidden_size": 64, "window_size": 64, "fullatt_block_indexes": [1]},
            **tokens,
        )
        model = t.Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2 and "embed_tokens" not in name:
                p.mul_(4)
            elif "bias" in name:
                p.normal_(0, 0.1)
    return model.train()


def positions_of(ids: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
    """(3, L) rotary positions of a whole sequence (patches merged 2 x 2)."""
    out, start, i, left = [], 0, 0, iter(grids)
    while i < len(ids):
        if ids[i] == IMAGE:
            h, w = (side // 2 for side in next(left))
            where = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(h), torch.arange(w), indexing="ij"))
            out.append(where.flatten(1).long() + start)
            start, i = start + max(h, w), i + h * w
        else:
            out.append(torch.full((3, 1), start))
            start, i = start + 1, i + 1
    return torch.cat(out, 1)


def said(rng: random.Random, words: int, grids: Sequence[tuple[int, int]] = ()) -> tuple[list[int], list[Any]]:
    """Token ids with pictures in their middle, and the pictures as (grid, pixels)."""
    ids = [rng.randrange(PLAIN) for _ in range(words)]
    shown = [(g, torch.randn(g[0] * g[1], PATCH_VALUES, generator=_torch(rng))) for g in grids]
    middle = [t for h, w in grids for t in (VISION_START, *[IMAGE] * (h * w // 4), VISION_END)]
    return ids[: words // 2] + middle + ids[words // 2 :], shown


def dialogue(prompt: Any, replies: Sequence[Any], group: str = "") -> Dialogue:
    """``replies``: (token ids, pictures, whether the policy said them), one after the other."""
    ids, shown, scored = list(prompt[0]), list(prompt[1]), [False] * len(prompt[0])
    for tokens, pictures, sampled in replies:
        ids += tokens
        shown += pictures
        scored += [sampled] * len(tokens)
    x = torch.tensor(ids)
    return Dialogue(
        ids=x,
        positions=positions_of(x, [g for g, _ in shown]),
        scored=torch.tensor(scored),
        prompt=len(prompt[0]),
        pixels=torch.cat([p for _, p in shown]) if shown else None,
        grids=torch.tensor([(1, *g) for g, _ in shown]) if shown else None,
        group=group,
        prompt_tokens=sum(t == IMAGE for t in prompt[0]),
    )


def group(rng: random.Random, n: int, most_turns: int = 3, name: str = "") -> list[Dialogue]:
    """``n`` rollouts of one prompt: 1 .. ``most_turns`` turns of unequal lengths, users' replies with pictures."""
    prompt = said(rng, rng.randint(2, 14), rng.sample(GRIDS, rng.randint(0, 3)))
    out = []
    for _ in range(n):
        turns: list[Any] = []
        for turn in range(rng.randint(1, most_turns)):
            if turn:
                turns.append((*said(rng, rng.randint(2, 6), rng.sample(GRIDS, rng.randint(0, 2))), False))
            turns.append((*said(rng, rng.randint(1, 9)), True))
        out.append(dialogue(prompt, turns, name))
    return out


def never_began() -> Dialogue:
    """As the agent loop hands over a first message that does not fit."""
    return dialogue(([5], []), [([5], [], False)])


def padding() -> Dialogue:
    """verl's copy that fills a batch: text alone, nothing scored."""
    return dialogue(([7] * 12, []), [([7], [], False)])


def _torch(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.randrange(1 << 30))
