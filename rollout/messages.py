"""Messages as lists of parts. A frame is a reference of known size, so its tokens are counted without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class TextPart:
    """Text, rendered as it is."""

    text: str


@dataclass(frozen=True)
class FramePart:
    """Frame ``frame`` of the conversation's clip, shown at height x width pixels (multiples of patch * merge)."""

    frame: int
    height: int
    width: int
    drawn: str | None = None
    """The policy's own mask of the frame, drawn on it: COCO run lengths at the clip's size."""


Part = TextPart | FramePart


@dataclass(frozen=True)
class Message:
    """One chat message."""

    role: Role
    parts: tuple[Part, ...]

    @staticmethod
    def text(role: Role, text: str) -> Message:
        """A message of one text part."""
        return Message(role, (TextPart(text),))

    @property
    def frames(self) -> tuple[int, ...]:
        """Frame indices shown by the message, in order."""
        return tuple(p.frame for p in self.parts if isinstance(p, FramePart))
