"""A JSON list written item by item."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data_construction.partials import partial_of


class JsonListWriter:
    """One item a line; the file has its name only once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = partial_of(path)
        self._file = self.partial.open("w", encoding="utf-8")
        self._before = "[\n"

    def add(self, item: Any) -> None:
        self._file.write(self._before + json.dumps(item, ensure_ascii=False, separators=(",", ":")))
        self._before = ",\n"

    def finish(self) -> Path:
        self._file.write("\n]\n" if self._before != "[\n" else "[]\n")
        self._file.close()
        os.replace(self.partial, self.path)
        return self.path

    def abort(self) -> None:
        self._file.close()
        self.partial.unlink(missing_ok=True)
