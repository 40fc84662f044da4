"""A tiny random Qwen2.5-VL, what Veason-R1 trains: window attention, patch 14, merge 2, no segmentation head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from verl_ext.tiny.tokenizer import CHAT_TEMPLATE, picture_tokens, train_tokenizer

PATCH = 14
PIXELS = {"shortest_edge": 3136, "longest_edge": 12845056}
"""The image processor's limits as published."""
QWEN2_5_VL_3B: dict[str, Any] = {
    "hidden": 2048,
    "layers": 36,
    "head_dim": 128,
    "intermediate": 11008,
    "key_value_heads": 2,
    "vision_hidden": 1280,
    "vision_layers": 32,
    "vision_head_dim": 80,
    "vision_intermediate": 3420,
    "full_attention": (7, 15, 23, 31),
    "window": 112,
    "vocabulary": 151936,
    "tie_embeddings": True,
}
"""The published shape, for measurements with random weights."""


@dataclass(frozen=True)
class TinyBoxPolicy:
    """Widths of the toy language and vision model."""

    hidden: int = 128
    layers: int = 3
    head_dim: int = 32
    vision_hidden: int = 64
    vision_layers: int = 3
    vision_head_dim: int = 32
    intermediate: int | None = None
    """Width of the feed-forward layers; by default 2.5 times ``hidden``."""
    key_value_heads: int | None = None
    vision_intermediate: int | None = None
    full_attention: tuple[int, ...] | None = None
    """Vision layers that attend over whole pictures, the others in windows; by default the last."""
    window: int = 56
    """Side of a window in pixels; the published towers have 112."""
    tie_embeddings: bool = False
    """Published: tied at 3B, untied at 7B."""
    spare_rows: int = 0
    """Rows of the embedding beyond the tokenizer's, as the published ones have."""
    vocabulary: int | None = None
    """All rows of the embedding, in place of the tokenizer's and the spare ones."""
    merges: int = 500
    """Entries of the tokenizer beyond the 256 bytes."""
    numbers: int = 64
    """Numbers below this are kept as single tokens."""


def tiny_box_config(tokenizer: Any, size: TinyBoxPolicy) -> Any:
    """Qwen2.5-VL's configuration at toy width."""
    from transformers import Qwen2_5_VLConfig

    ids = tokenizer.convert_tokens_to_ids
    heads = size.hidden // size.head_dim
    eighth = size.head_dim // 16  # rotary pairs, head_dim / 2 of them, shared 2 : 3 : 3 as in the real model
    text = {
        "vocab_size": size.vocabulary or len(tokenizer) + size.spare_rows,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate or size.hidden * 5 // 2 // 32 * 32,
        "num_hidden_layers": size.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": size.key_value_heads or max(1, heads // 2),
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "max_window_layers": size.layers,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth],
        },
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "tie_word_embeddings": size.tie_embeddings,
    }
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate or size.vision_hidden * 2,
        "num_heads": size.vision_hidden // size.vision_head_dim,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": size.window,
        "out_hidden_size": size.hidden,
        "fullatt_block_indexes": list(size.full_attention or (size.vision_layers - 1,)),
        "tokens_per_second": 2,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        **picture_tokens(tokenizer),
        tie_word_embeddings=size.tie_embeddings,
    )


def box_processor(tokenizer: Any) -> Any:
    """A Qwen2.5-VL processor with the published limits of pixels."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    shared = {
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": PIXELS,
        "image_mean": list(OPENAI_CLIP_MEAN),
        "image_std": list(OPENAI_CLIP_STD),
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        video_processor=Qwen2VLVideoProcessor(**shared),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_tiny_box_policy(
    folder: str | Path,
    texts: Iterable[str],
    size: TinyBoxPolicy | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Path:
    """Write an untrained box policy; returns its folder.

    Args:
        texts: what the tokenizer is trained on.
    """
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    from verl_ext.policy.checkpoint import write_policy_folder

    size = size or TinyBoxPolicy()
    tokenizer = train_tokenizer(texts, merges=size.merges, numbers=size.numbers, added=())
    config = tiny_box_config(tokenizer, size)
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration(config).to(dtype)
    end, pad = config.text_config.eos_token_id, config.text_config.pad_token_id
    generation = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, do_sample=True)
    state = model.state_dict()
    if size.tie_embeddings:
        del state["lm_head.weight"]
    write_policy_folder(folder, config, state, None, None, box_processor(tokenizer), generation)
    return Path(folder)
