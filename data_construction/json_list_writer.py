"""A JSON list written item by item."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data_construction.partials import partial_of


class JsonListWriter:
    """One item a line; the file has its name only once it is whole and on disk. ``count`` says how many there are."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.partial = partial_of(path)
        self._file = self.partial.open("w", encoding="utf-8")

    def add(self, item: Any) -> None:
        """Raises ValueError for a number that JSON has no word for (NaN, infinity)."""
        text = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write((",\n" if self.count else "[\n") + text)
        self.count += 1

    def finish(self) -> Path:
        self._file.write("\n]\n" if self.count else "[]\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)
        return self.path

    def abort(self) -> None:
        """Leave nothing of an unfinished list; does nothing to a finished one."""
        self._file.close()
        self.partial.unlink(missing_ok=True)
