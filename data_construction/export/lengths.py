"""How long an exported example is in tokens, and what LLaMA-Factory must be told so that it cuts none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.frames import fitted_size

MARKS_A_MESSAGE, MARKS_AN_IMAGE = 5, 2
"""Tokens of the chat template."""
LETTERS_A_TOKEN = 4
"""Of a long word, about: short ones are one token. Qwen's tokenizers give each digit a token."""
SHIPPED_LEAST = {32: 256 * 256, 28: 56 * 56}
"""By patch times merge: the fewest pixels of an image in ``preprocessor_config.json`` as Qwen3-VL and Qwen2.5-VL ship
it; a smaller image is enlarged to as many."""
MOST = 768 * 768
"""LLaMA-Factory's ``image_max_pixels``, to which it shrinks files that are larger."""
STEP = 512
_PARTS = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_|\n")


@dataclass
class Longest:
    """Of the examples so far: tokens with images at the size of their files, and as a model folder enlarges them."""

    factor: int
    tokens: int = 0
    enlarged: int = 0
    images: int = 0

    def add(self, conversations: Sequence[tuple[str, str]], sizes: Sequence[tuple[int, int]]) -> None:
        """``sizes``: (height, width) of the image files."""
        text = sum(text_tokens(value.replace("<image>", "")) + MARKS_A_MESSAGE for _, value in conversations)
        text += MARKS_AN_IMAGE * len(sizes)
        plain, enlarged = (text + sum(self._image(*size, least) for size in sizes) for least in (0, self._least))
        if enlarged > self.enlarged:
            self.tokens, self.enlarged, self.images = plain, enlarged, len(sizes)

    @property
    def _least(self) -> int:
        return SHIPPED_LEAST.get(self.factor, 0)

    def _image(self, height: int, width: int, least: int) -> int:
        height, width = fitted_size(height, width, MOST, least, self.factor)
        return height * width // self.factor**2

    def words(self) -> str:
        """For the person who trains on the file."""
        said = (
            f"the longest example has about {self.tokens} tokens ({self.images} images): LLaMA-Factory cuts at its "
            f"cutoff_len, 2048 unless set; set cutoff_len: {_rounded(self.tokens)}"
        )
        if self.enlarged == self.tokens:
            return said
        side = round(self._least**0.5)
        return (
            f"{said}, or {_rounded(self.enlarged)} ({self.enlarged} tokens) as long as the model folder's "
            f"preprocessor_config.json enlarges images to {side} x {side} pixels, as it is shipped. LLaMA-Factory's "
            "own image_min_pixels and image_max_pixels never reach that image processor: for images as small as the "
            "policy was shown, lower the least number of pixels there (size.shortest_edge, min_pixels)"
        )


def text_tokens(text: str) -> int:
    """About as many as a Qwen tokenizer makes, rather more than fewer."""
    return sum(max(1, -(-len(part.encode()) // LETTERS_A_TOKEN)) for part in _PARTS.findall(text))


def _rounded(tokens: int) -> int:
    """Up, with a sixteenth to spare: the text's tokens are an estimate."""
    return -(-(tokens + tokens // 16) // STEP) * STEP
