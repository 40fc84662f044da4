"""Masks in one file for the whole split: ``mask_dict.json`` and its pickled form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_construction.readers.annotations import ClipEntry
from data_construction.readers.indexed_json import open_json
from data_construction.readers.masks import Size, mask_format, missing_masks, one_form
from data_construction.readers.pickles import read_pickle
from data_construction.readers.stanza import SplitFiles
from rollout.errors import DataError
from rollout.types import RLE


class _ById:
    """``{anno_id: [RLE or null per frame]}``; opened on first use, shared by the splits."""

    def __init__(self, path: Path, files: SplitFiles) -> None:
        self.path = path
        self._masks: Mapping[Any, Any] | None = None

    def _load(self) -> Any:
        raise NotImplementedError

    def read(self, entry: ClipEntry, anno_id: str, size: Size) -> list[RLE | None]:
        if self._masks is None:
            found = self._load()
            if not isinstance(found, Mapping):
                raise DataError(f"{self.path}: must map annotation ids to lists of RLE")
            self._masks = found
        rles = self._masks.get(anno_id)
        if rles is None and anno_id.isdigit():
            rles = self._masks.get(int(anno_id))  # Pickles may be numbered.
        if isinstance(rles, Mapping) and rles.keys() <= set(entry.frames):
            rles = [rles.get(frame) for frame in entry.frames]  # By the frames' names, without those that have none.
        if not isinstance(rles, (list, tuple)):
            raise missing_masks(self.path, entry.name, anno_id).error()
        return one_form(rles, size, self.path, entry, anno_id)


@mask_format("rle_dict")
class RleDict(_ById):
    """``mask_dict.json``."""

    def _load(self) -> Any:
        return open_json(self.path)


@mask_format("rle_pickle")
class RlePickle(_ById):
    """``mask_dict.pkl``, read by an unpickler that knows plain data only."""

    def _load(self) -> Any:
        return read_pickle(self.path)
