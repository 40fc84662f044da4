"""What validation needs of an opened split, so that it can look at a `Dataset` without importing it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from data_construction.problems import Problem
from data_construction.readers.annotations import ClipEntry, Index
from data_construction.readers.masks import MaskSource
from data_construction.readers.stanza import SplitFiles, Stanza
from rollout.types import Masklets

FrameCheck = Literal["none", "exist", "decode"]


class OpenSplit(Protocol):
    """`data_construction.readers.dataset.Dataset` as validation sees it; members are documented there."""

    stanza: Stanza
    split: str
    root: Path
    files: SplitFiles
    index: Index
    masks: MaskSource | None

    @property
    def name(self) -> str: ...

    def frame_paths(self, entry: ClipEntry) -> list[Path]: ...

    def absent(self, entry: ClipEntry) -> Problem | None: ...

    def size(self, clip: str) -> tuple[int, int]: ...

    def masklets(self, clip: str, anno_ids: tuple[str, ...]) -> Masklets | None: ...

    def foreground(self, clip: str) -> Masklets | None: ...
