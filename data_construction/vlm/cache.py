"""Replies on disk, keyed by what was asked: a restarted or repeated job pays for nothing twice.

One small file a reply, written under another name and renamed, so that jobs may share a folder. Holds no key, no URL.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_construction.partials import partial_of, remove_abandoned

GROWING = "growing"
"""Where replies are written before they get their name: one place to look for what a killed job left."""


@dataclass(frozen=True)
class CachedReply:
    """The model's text and the tokens that it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class ResponseCache:
    """``folder/ab/cdef….json``. With ``folder`` None nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            remove_abandoned(folder / GROWING)

    @staticmethod
    def key(content: Mapping[str, Any]) -> str:
        """SHA-256 (hex) of model, messages (images by their bytes) and parameters."""
        state = hashlib.sha256()
        _feed(state, content)
        return state.hexdigest()

    def read(self, key: str) -> CachedReply | None:
        """None also where the file does not hold together (the machine lost power): then it is asked for again."""
        if self.folder is None:
            return None
        try:
            value = json.loads(self._path(key).read_text(encoding="utf-8"))
            return CachedReply(str(value["text"]), int(value["prompt_tokens"]), int(value["completion_tokens"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, key: str, reply: CachedReply) -> None:
        if self.folder is None:
            return
        path = self._path(key)
        temporary = partial_of(self.folder / GROWING / key)
        for folder in (path.parent, temporary.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(asdict(reply)), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key[2:]}.json"


def _feed(state: hashlib._Hash, value: Any) -> None:
    """Types and lengths go along, so that no two values feed the same bytes. Images make JSON text slow here."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        state.update(b"s%d:" % len(data))
        state.update(data)
    elif isinstance(value, Mapping):
        state.update(b"{%d:" % len(value))
        for key in sorted(value):
            _feed(state, key)
            _feed(state, value[key])
    elif isinstance(value, list | tuple):
        state.update(b"[%d:" % len(value))
        for item in value:
            _feed(state, item)
    else:
        data = json.dumps(value).encode()
        state.update(b"n%d:" % len(data) + data)
