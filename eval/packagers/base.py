"""What a packager is: from one clip's answers to files, and back to what is wrong with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.types import RLE, Clip, Expression
from rollout.video import split_frame_path


@dataclass(frozen=True)
class Answer:
    """What is handed in for one expression."""

    expression: Expression
    masks: tuple[RLE | None, ...]
    """One a frame of the clip, objects merged; None is an empty mask."""
    objects: tuple[tuple[RLE | None, ...], ...]
    """The same object by object."""


@dataclass(frozen=True)
class Entry:
    """One file of a submission: its path with forward slashes, and what makes its bytes (run in any thread)."""

    path: str
    content: Callable[[], bytes]


class Packager(ABC):
    """A submission's layout. All methods see one clip at a time, so that memory does not grow with the benchmark."""

    about: str = ""
    """The layout in words, and where it is written down."""
    largest: int = 1 << 28
    """No file of such a submission has so many bytes: a bigger one is refused unread."""

    @abstractmethod
    def entries(self, clip: Clip, answers: Sequence[Answer]) -> Iterable[Entry]:
        """The files of one clip, every expression of it answered, in a fixed order."""

    @abstractmethod
    def paths(self, clip: Clip, expressions: Sequence[Expression]) -> list[str]:
        """The paths of ``entries``, without their content."""

    @abstractmethod
    def problems(self, clip: Clip, expressions: Sequence[Expression], path: str, content: bytes) -> Iterable[str]:
        """What is wrong with one file, in words that name neither clip nor path."""


def frame_name(frame: str) -> str:
    """A frame's name without folder and suffix: ``00012`` of ``clip/00012.jpg``; of ``clip.mp4#12`` too."""
    in_video = split_frame_path(frame)
    return Path(frame).stem if in_video is None else f"{in_video[1]:05d}"
