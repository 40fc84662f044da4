"""How a policy's tokenizer and vision tower cut a chat into tokens: ChatML with Qwen-VL image placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.control_text import SEG_TOKEN
from rollout.errors import ProtocolError
from rollout.frames import MIN_UNITS, UNIT_PIXELS
from rollout.messages import FramePart, Message, TextPart

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
END_OF_TEXT = "<|endoftext|>"
NEVER_SAMPLED = (IM_START, VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, "<|video_pad|>")


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool = ..., clean_up_tokenization_spaces: bool = ...
    ) -> str: ...
    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class ChatFormat:
    """Token ids of the chat's control tokens and the geometry of the vision tower (pixels).

    ``min_pixels`` and ``max_pixels`` are the limits of the policy's image processor: a frame outside them would
    be resized once more behind our back, and its placeholders would no longer match.
    """

    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    forbidden: frozenset[int]
    """Ids that the policy may never sample."""
    stop: tuple[int, ...]
    """Ids that end a turn; the first is ``<|im_end|>``."""
    seg: int | None
    vocab_size: int
    patch: int = 16
    merge: int = 2
    min_pixels: int = 0
    max_pixels: int = 2**31

    @property
    def factor(self) -> int:
        """Frame sizes are multiples of this many pixels."""
        return self.patch * self.merge

    @staticmethod
    def from_tokenizer(tokenizer: Tokenizer, patch: int = 16, merge: int = 2, **pixels: int) -> ChatFormat:
        """Looks the control tokens up; raises `ProtocolError` if the tokenizer lacks one that is needed."""
        vocab = tokenizer.get_vocab()
        missing = [t for t in (IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD) if t not in vocab]
        if missing:
            raise ProtocolError(f"the tokenizer lacks {', '.join(missing)}; use a Qwen-VL tokenizer or add them")
        return ChatFormat(
            im_start=vocab[IM_START],
            im_end=vocab[IM_END],
            vision_start=vocab[VISION_START],
            vision_end=vocab[VISION_END],
            image_pad=vocab[IMAGE_PAD],
            forbidden=frozenset(vocab[t] for t in NEVER_SAMPLED if t in vocab),
            stop=tuple(vocab[t] for t in (IM_END, END_OF_TEXT) if t in vocab),
            seg=vocab.get(SEG_TOKEN),
            vocab_size=max(vocab.values()) + 1,
            patch=patch,
            merge=merge,
            **pixels,
        )

    @staticmethod
    def from_processor(processor: Any) -> ChatFormat:
        """From a Hugging Face Qwen-VL processor: its tokenizer, patch and merge sizes and pixel limits."""
        images = processor.image_processor
        return ChatFormat.from_tokenizer(
            processor.tokenizer,
            patch=images.patch_size,
            merge=images.merge_size,
            min_pixels=images.size["shortest_edge"],
            max_pixels=images.size["longest_edge"],
        )

    def processor_size(self, max_units: int = 16384) -> dict[str, int]:
        """The image processor's ``size`` under which no frame that we size is ever resized again."""
        smallest = min(self.factor**2, MIN_UNITS * UNIT_PIXELS)
        return {"shortest_edge": smallest, "longest_edge": max_units * UNIT_PIXELS}

    def grid(self, part: FramePart) -> tuple[int, int, int]:
        """(1, rows, columns) of a frame in patches; raises `ProtocolError` if the processor would not keep its size."""
        size = f"frame {part.frame} at {part.height}x{part.width}"
        if part.height % self.factor or part.width % self.factor or min(part.height, part.width) <= 0:
            raise ProtocolError(f"{size}: both sides must be multiples of {self.factor} (patch * merge)")
        if not self.min_pixels <= part.height * part.width <= self.max_pixels:
            raise ProtocolError(
                f"{size} lies outside the image processor's limits of {self.min_pixels}..{self.max_pixels} pixels and "
                f"would be resized again; set image_processor.size to {self.processor_size()}"
            )
        return 1, part.height // self.patch, part.width // self.patch

    def num_tokens(self, part: FramePart) -> int:
        """Image placeholders of a frame."""
        t, h, w = self.grid(part)
        return t * h * w // self.merge**2

    def encode_message(self, tokenizer: Tokenizer, message: Message) -> list[int]:
        """``<|im_start|>role\\n … <|im_end|>\\n`` as ids, equal to tokenising the rendered chat template.

        Control tokens split the text before any merge, so the runs between them can be encoded one by one.
        """
        ids, run = [self.im_start], f"{message.role}\n"
        for part in message.parts:
            if isinstance(part, TextPart):
                run += part.text
                continue
            ids += self._encode_run(tokenizer, run)
            ids += [self.vision_start, *[self.image_pad] * self.num_tokens(part), self.vision_end]
            run = ""
        return [*ids, *self._encode_run(tokenizer, run), self.im_end, *self._encode_run(tokenizer, "\n")]

    def generation_prompt(self, tokenizer: Tokenizer) -> list[int]:
        """``<|im_start|>assistant\\n`` as ids."""
        return [self.im_start, *self._encode_run(tokenizer, "assistant\n")]

    def newline(self, tokenizer: Tokenizer) -> list[int]:
        """The line break between an assistant's ``<|im_end|>`` and the next message."""
        return self._encode_run(tokenizer, "\n")

    def _encode_run(self, tokenizer: Tokenizer, text: str) -> list[int]:
        ids = tokenizer.encode(text, add_special_tokens=False) if text else []
        self._refuse(ids, {*self.forbidden, self.im_end}, f"the text {text[:80]!r}")
        return ids

    def check_sampled(self, token_ids: Sequence[int]) -> None:
        """Raises `ProtocolError` if the engine returned ids that no policy may sample, or went on after a stop."""
        self._refuse(token_ids, self.forbidden, "the sampled reply")
        if self.im_end in token_ids[:-1]:
            raise ProtocolError(f"the sampled reply goes on after {IM_END}; pass stop_token_ids to the engine")
        if any(not 0 <= t < self.vocab_size for t in token_ids):
            raise ProtocolError(f"the sampled reply has ids outside 0..{self.vocab_size - 1}; mask them in the engine")

    def _refuse(self, token_ids: Sequence[int], banned: set[int] | frozenset[int], what: str) -> None:
        found = banned.intersection(token_ids)
        if found:
            raise ProtocolError(f"{what} contains control token ids {sorted(found)}, which would corrupt the chat")
