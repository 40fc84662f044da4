"""Build the tiny policy: tokenizer, processor, Qwen3-VL, projection and SAM 2, saved as any other policy folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from verl_ext.tiny.tokenizer import CHAT_TEMPLATE, picture_tokens, train_tokenizer

if TYPE_CHECKING:
    from rewards.segmenter import Segmenter


GPU_TINY = {"hidden": 256, "head_dim": 64, "vision_hidden": 128, "vision_head_dim": 64}
"""CUDA attention kernels want heads of 64 or 128."""
QWEN3_VL_2B = {
    "hidden": 2048,
    "layers": 28,
    "head_dim": 128,
    "intermediate": 6144,
    "key_value_heads": 8,
    "vision_hidden": 1024,
    "vision_layers": 24,
    "vision_head_dim": 64,
    "vision_intermediate": 4096,
    "deepstack": (5, 11, 17),
    "vocabulary": 151936,
    "tie_embeddings": True,
    "vision_positions": 2304,
}
"""The published shape, for measurements with random weights."""


@dataclass(frozen=True)
class TinyPolicy:
    """Widths of the toy language and vision model (these learn in three CPU-minutes)."""

    hidden: int = 128
    layers: int = 3
    vision_hidden: int = 64
    vision_layers: int = 2
    head_dim: int = 32
    vision_head_dim: int = 32
    intermediate: int | None = None
    """Width of the feed-forward layers; by default 2.5 times ``hidden``."""
    key_value_heads: int | None = None
    vision_intermediate: int | None = None
    deepstack: tuple[int, ...] | None = None
    """Vision layers whose features join the language model's first layers."""
    vocabulary: int | None = None
    """Rows of the embedding; by default exactly the tokenizer's."""
    tie_embeddings: bool = False
    vision_positions: int = 64
    projection_gain: float = 8.0
    """Factor on the projection's last layer at the start: prompts then have the spread that the decoder expects."""


def tiny_config(tokenizer: Any, size: TinyPolicy) -> Any:
    """Qwen3-VL's configuration at toy width; patch 16 and merge 2 as in the real one."""
    from transformers import Qwen3VLConfig

    ids = tokenizer.convert_tokens_to_ids
    eighth = size.head_dim // 32  # rotary pairs, head_dim / 2 of them, shared 6 : 5 : 5 as in the real model
    section = [size.head_dim // 2 - 10 * eighth, 5 * eighth, 5 * eighth]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section, "mrope_interleaved": True}
    heads = size.hidden // size.head_dim
    text = {
        "vocab_size": size.vocabulary or len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate or size.hidden * 5 // 2 // 32 * 32,
        "num_hidden_layers": size.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": size.key_value_heads or max(1, heads // 2),
        "head_dim": size.head_dim,
        "max_position_embeddings": 8192,
        "rope_theta": 1e4,
        "rope_parameters": rope,
        "rope_scaling": rope,
        "tie_word_embeddings": size.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
    }
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate or size.vision_hidden * 2,
        "num_heads": size.vision_hidden // size.vision_head_dim,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.hidden,
        "num_position_embeddings": size.vision_positions,
        "deepstack_visual_indexes": list(size.deepstack or (0, 1)[: size.vision_layers]),
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        **picture_tokens(tokenizer),
        tie_word_embeddings=size.tie_embeddings,
    )


def tiny_processor(tokenizer: Any) -> Any:
    """A Qwen3-VL processor that never resizes a frame that we sized."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    from rollout.chat_format import ChatFormat

    half = [0.5, 0.5, 0.5]
    limits = ChatFormat.from_tokenizer(tokenizer).processor_size()
    shared = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "size": limits}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared, image_mean=half, image_std=half),
        video_processor=Qwen3VLVideoProcessor(**shared, image_mean=half, image_std=half),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_tiny_policy(
    folder: str | Path,
    texts: Iterable[str],
    segmenter: Segmenter,
    size: TinyPolicy | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Path:
    """Write an untrained policy around a (warmed-up) segmenter.

    Args:
        texts: what the tokenizer is trained on.
        segmenter: SAM 2, whose weights stand in for the public checkpoint.
    """
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    from verl_ext.policy.checkpoint import write_policy_folder
    from verl_ext.policy.head import build_projection

    size = size or TinyPolicy()
    tokenizer = train_tokenizer(texts)
    config = tiny_config(tokenizer, size)
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration(config).to(dtype)
    projection = build_projection(size.hidden, segmenter.config.prompt_width)
    with torch.no_grad():
        projection[-1].get_parameter("weight").mul_(size.projection_gain)
    head = {f"text_hidden_fcs.{n}": t for n, t in projection.state_dict().items()}
    head |= {f"grounding_encoder.{n}": t for n, t in segmenter.state_dict().items()}
    end, pad = config.text_config.eos_token_id, config.text_config.pad_token_id
    generation = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad, do_sample=True)
    write_policy_folder(
        folder, config, model.state_dict(), head, segmenter.config, tiny_processor(tokenizer), generation
    )
    return Path(folder)
