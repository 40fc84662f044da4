"""A tiny but real tokenizer (byte-level BPE with Qwen's control tokens), clips on disk, replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rollout import Clip
from rollout.environments.keyframe_exploration import ExplorationSettings
from verl_ext.tiny.tokenizer import CHAT_TEMPLATE, CONTROL_TOKENS

SETTINGS = ExplorationSettings(
    temporal_frames=4,
    spatial_frames=2,
    frames_per_turn=3,
    max_turns=3,
    temporal_budget=4,
    spatial_budget=8,
    keyframe_budget=16,
)
FACTOR = 32


def build_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AddedToken, Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    corpus = ["system user assistant frames indices query segment think select answer start end keyframe "] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"], merges=merges, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    special = [AddedToken(t, special=True, normalized=False) for t in (*CONTROL_TOKENS, "[SEG]")]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_clip(folder: Path, num_frames: int = 12, height: int = 96, width: int = 128) -> Clip:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for t in range(num_frames):
        path = folder / f"{t:05d}.jpg"
        pixels = np.full((height, width, 3), 20 * t % 256, dtype=np.uint8)
        Image.fromarray(pixels).save(path, quality=95)
        paths.append(str(path))
    return Clip(folder.name, tuple(paths), height, width)


def turn(action: str, start: int, end: int, keyframe: int, think: str = "Step 1: a duck. Action: look") -> str:
    """A well-formed reply, written out by hand so that tests do not lean on the code they test."""
    vtg = f'{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}'
    return f"<think>{think}</think><{action}><VTG>{vtg}</VTG> <RefSeg> [SEG] </RefSeg></{action}>"
