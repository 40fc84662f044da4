"""A byte-level BPE tokenizer trained on the task's own text, with Qwen3-VL's control tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SEG_TOKENS = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
"""Added by VideoSEG-O3 (SPEC 2.2)."""
TAGS = (
    "<think>", "</think>", "<select>", "</select>", "<answer>", "</answer>",
    "<VTG>", "</VTG>", "<RefSeg>", "</RefSeg>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for c in message.content %}"
    "{%- if c.type == 'image' or 'image' in c %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in c %}{{- c.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def train_tokenizer(
    texts: Iterable[str], merges: int = 500, numbers: int = 64, added: Sequence[str] | None = None
) -> Any:
    """A fast tokenizer whose vocabulary has no spare ids.

    Args:
        texts: traces, queries and prompts; every frequent word becomes one token.
        merges: entries to learn beyond the 256 bytes.
        numbers: frame numbers below this are kept as single tokens, with and without a space before.
        added: special tokens of the method, by default VideoSEG-O3's; a box policy has none.

    vocab size == len(tokenizer): spare ids would have to be forbidden, as verl masks them in vLLM but not in the actor.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AddedToken, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    corpus = list(texts) + [f" {n} {n}," for n in range(numbers) for _ in range(200)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    )
    # not Qwen2TokenizerFast: that one splits numbers into digits, and a toy model learns whole numbers much sooner
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL_TOKENS)})
    special = SEG_TOKENS if added is None else added
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 8192
    return tokenizer


def picture_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of the tokens that stand for pictures, by the names of a Qwen-VL's configuration."""
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names, strict=True)}
