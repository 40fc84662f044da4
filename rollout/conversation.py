"""The one owner of a dialogue's messages, images, token ids, loss mask and vision grids.

Legend: L tokens so far = prompt (system, first user message, generation prompt) + response (all that follows).
The mask is 1 on tokens that the policy sampled. After every turn the number of image placeholders is checked
against the vision grids. Frames are references until `images` is asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rollout.chat_format import ChatFormat, Tokenizer
from rollout.errors import ProtocolError
from rollout.frames import load_frame_resized
from rollout.messages import FramePart, Message
from rollout.overlay import draw_mask
from rollout.positions import mrope_positions
from rollout.types import Clip

if TYPE_CHECKING:
    from PIL.Image import Image


ReadPictures = Callable[[Clip, Sequence[FramePart]], "list[Image]"]


def read_frames(clip: Clip, parts: Sequence[FramePart]) -> list[Image]:
    """From disk, one after another. `rollout.pictures.PictureStore.of_clip` reads what dialogues share once."""
    return [part_image(clip, p, load_frame_resized(clip, p.frame, p.height, p.width)) for p in parts]


def part_image(clip: Clip, part: FramePart, image: Image) -> Image:
    """What is shown of a frame at its size: with the policy's own mask where it has one."""
    return image if part.drawn is None else draw_mask(image, part.drawn, (clip.height, clip.width))


@dataclass(frozen=True)
class Reply:
    """An assistant turn as it was taken in."""

    text: str
    """Decoded with its special tokens, without the closing ``<|im_end|>``."""
    seg_positions: tuple[int, ...]
    """Positions of the sampled ``[SEG]`` in the conversation's token ids."""


class Conversation:
    """See the module. ``max_tokens`` bounds L; the prompt and the response may be bounded on their own as well.

    ``read`` gives the images of some frames of the clip.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        clip: Clip,
        max_tokens: int,
        max_prompt_tokens: int | None = None,
        max_response_tokens: int | None = None,
        read: ReadPictures = read_frames,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.clip = clip
        self.max_tokens = max_tokens
        self.max_prompt_tokens = max_tokens if max_prompt_tokens is None else max_prompt_tokens
        self.max_response_tokens = max_tokens if max_response_tokens is None else max_response_tokens
        self.messages: list[Message] = []
        self.token_ids: list[int] = []
        self.loss_mask: list[int] = []
        self.log_probs: list[float] = []
        """One per token, 0 where the mask is 0; meaningful if `has_log_probs`."""
        self.has_log_probs = True
        self.frames: list[FramePart] = []
        """Every image shown, in order."""
        self.grids: list[tuple[int, int, int]] = []
        """(1, rows, columns) in patches, one per image."""
        self.prompt_length = 0
        self._read = read
        self._images: list[Image] = []

    # ---- growing -------------------------------------------------------------------------------------------

    def append_user(self, messages: Sequence[Message], reserve: int = 0) -> bool:
        """Takes system and user messages in, and opens the assistant's turn.

        False, with nothing changed and no file opened, if they and ``reserve`` further tokens (a reply with its
        closing token) would not fit. Raises `ProtocolError` if it is not the environment's turn or a text holds
        control tokens.
        """
        if self.token_ids and self.token_ids[-1] != self.chat.im_end:
            raise ProtocolError("a user message was given while the assistant's turn is open")
        ids = self.chat.newline(self.tokenizer) if self.token_ids else []
        for message in messages:
            ids += self.chat.encode_message(self.tokenizer, message)
        ids += self.chat.generation_prompt(self.tokenizer)
        if not self._fits(len(ids), reserve):
            return False
        frames = [p for m in messages for p in m.parts if isinstance(p, FramePart)]
        self.messages += messages
        self.frames += frames
        self.grids += [self.chat.grid(f) for f in frames]
        self._extend(ids, sampled=0)
        if not self.prompt_length:
            self.prompt_length = len(self.token_ids)
        self.check()
        return True

    def append_assistant(self, token_ids: Sequence[int], log_probs: Sequence[float] | None = None) -> Reply:
        """Takes a sampled reply in; a missing ``<|im_end|>`` is added with mask 0.

        Raises `ProtocolError` if no turn is open, a log-prob is missing, or the engine sampled a control token.
        """
        ids = list(token_ids)
        if not self.token_ids or self.token_ids[-1] == self.chat.im_end:
            raise ProtocolError("an assistant reply was given while no assistant turn is open")
        if log_probs is not None and len(log_probs) != len(ids):
            raise ProtocolError(f"{len(ids)} sampled tokens came with {len(log_probs)} log-probs")
        self.chat.check_sampled(ids)
        begin = len(self.token_ids)
        self._extend(ids, sampled=1, log_probs=log_probs)
        if not ids or ids[-1] != self.chat.im_end:
            self._extend([self.chat.im_end], sampled=0)
        spoken = ids[:-1] if ids and ids[-1] == self.chat.im_end else ids
        text = self.tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        self.messages.append(Message.text("assistant", text))
        self.check()
        seg = tuple(begin + i for i, t in enumerate(ids) if t == self.chat.seg)
        return Reply(text, seg)

    def _extend(self, ids: Sequence[int], sampled: int, log_probs: Sequence[float] | None = None) -> None:
        self.token_ids += ids
        self.loss_mask += [sampled] * len(ids)
        self.log_probs += [0.0] * len(ids) if log_probs is None else list(log_probs)
        if sampled and log_probs is None:
            self.has_log_probs = False

    def _fits(self, added: int, reserve: int) -> bool:
        if not self.prompt_length:
            within = added <= self.max_prompt_tokens and reserve <= self.max_response_tokens
        else:
            within = len(self.token_ids) - self.prompt_length + added + reserve <= self.max_response_tokens
        return within and len(self.token_ids) + added + reserve <= self.max_tokens

    # ---- reading -------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Tokens that still fit after what is there; the closing token of an open turn is one of them."""
        response = len(self.token_ids) - self.prompt_length
        return min(self.max_response_tokens - response, self.max_tokens - len(self.token_ids))

    @property
    def prompt_ids(self) -> list[int]:
        return self.token_ids[: self.prompt_length]

    @property
    def response_ids(self) -> list[int]:
        return self.token_ids[self.prompt_length :]

    @property
    def response_mask(self) -> list[int]:
        return self.loss_mask[self.prompt_length :]

    @property
    def response_log_probs(self) -> list[float] | None:
        """None unless every reply came with log-probs."""
        return self.log_probs[self.prompt_length :] if self.has_log_probs else None

    @property
    def seg_positions(self) -> list[int]:
        """Positions in `token_ids` of every ``[SEG]`` that the policy sampled (not of one in a prompt)."""
        return [i for i, t in enumerate(self.token_ids) if t == self.chat.seg and self.loss_mask[i]]

    def position_ids(self) -> NDArray[np.int64]:
        """(3, L) rotary positions (time, height, width) as the policy's own code makes them."""
        return mrope_positions(self.token_ids, self.chat.image_pad, self.grids, self.chat.merge)

    def images(self) -> list[Image]:
        """All images so far, RGB at their sizes; each is loaded once. Raises `DataError`, see `load_frame`."""
        self._images += self._read(self.clip, self.frames[len(self._images) :])
        return list(self._images)

    def forbidden_token_ids(self) -> list[int]:
        """Ids that may never be sampled: vision tokens and the opening of a message."""
        return sorted(self.chat.forbidden)

    def stop_token_ids(self) -> list[int]:
        """Ids that end an assistant turn."""
        return list(self.chat.stop)

    def check(self) -> None:
        """Raises `ProtocolError` unless placeholders equal the vision grids and the lists have one length."""
        placeholders = self.token_ids.count(self.chat.image_pad)
        expected = sum(t * h * w for t, h, w in self.grids) // self.chat.merge**2
        if placeholders != expected:
            raise ProtocolError(f"clip {self.clip.name}: {placeholders} image placeholders, the grids make {expected}")
        lengths = {len(self.token_ids), len(self.loss_mask), len(self.log_probs)}
        if len(lengths) != 1 or len(self.grids) != len(self.frames):
            raise ProtocolError(f"clip {self.clip.name}: the conversation's lists have lengths {sorted(lengths)}")
