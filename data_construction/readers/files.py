"""Reading JSON with errors that name the file."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from rollout.errors import DataError
from rollout.text_files import read_text


def read_json(path: Path) -> Any:
    """The parsed file. Raises DataError if it is missing, cut short or not JSON."""
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as e:
        raise DataError(f"{path}: missing; check the data set's root folder and split") from e
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read as JSON ({e}); the file may be cut short, get it again") from e


def read_json_shared(path: Path) -> Any:
    """As ``read_json``, kept in memory for the next split or reader that wants the same unchanged file."""
    try:
        stat = path.stat()
    except OSError:
        return read_json(path)
    return _read_version(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _read_version(path: Path, _mtime_ns: int, _size: int) -> Any:
    return read_json(path)
