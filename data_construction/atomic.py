"""Files and folders that are either whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_construction.partials import alive, partial_suffix
from rollout.errors import DataError


def write_whole(path: Path, text: str) -> None:
    """``path`` with ``text``: a reader sees the old file or the new one, never a part.

    It is written under a name that nothing else has; a link that stands at ``path`` is replaced, never followed.
    """
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=partial_suffix(), dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Compact JSON, by :func:`write_whole`."""
    write_whole(path, json.dumps(value, separators=(",", ":")))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, that becomes ``target`` when the block ends well and vanishes when it does not.

    A process killed outright leaves its hidden ``.<name>.partial-…`` folder; the next call removes it. A link to an
    empty folder stays a link to it. Raises DataError, before the work, if ``target`` exists and is not an empty folder,
    or is one that cannot be replaced.
    """
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: already exists; give another folder, or remove it first")
    if target.is_mount():
        raise DataError(f"{target}: is a mount point, which cannot be replaced in one step; give a folder in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    partial = target.parent / f".{target.name}.partial-{socket.gethostname()}-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        make_readable(partial)
        os.rename(partial, target)  # Replaces an empty folder on POSIX, in one step.
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Every file of a folder for everybody's eyes, as plainly written ones are: safetensors (0.8) leaves weights that
    their owner alone may read, and whoever evaluates them is often somebody else."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | 0o444)


def _remove_abandoned(target: Path) -> None:
    """Delete what a killed process of this host left for the same target."""
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    for folder in target.parent.iterdir():
        pid = folder.name.removeprefix(prefix)
        if folder.name.startswith(prefix) and pid.isdigit() and (int(pid) == os.getpid() or not alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)
