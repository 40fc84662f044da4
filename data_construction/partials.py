"""Files that grow under another name until they are whole, and what killed processes leave of them."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import psutil

_HOST = socket.gethostname()
_OURS = re.compile(rf"\..+\.(?:{re.escape(_HOST)}-)?(\d+)\.partial")


def partial_suffix() -> str:
    """How the names of this process's unfinished files end."""
    return f".{_HOST}-{os.getpid()}.partial"


def partial_of(path: Path) -> Path:
    """The name, in the same folder, under which this process writes ``path``."""
    return path.with_name(f".{path.name}{partial_suffix()}")


def remove_abandoned(folder: Path, pattern: str = ".*.partial") -> None:
    """Delete what dead processes of this host left in ``folder``; ``pattern`` as for ``Path.glob``."""
    for path in folder.glob(pattern):
        found = _OURS.fullmatch(path.name)
        if found is not None and not alive(int(found[1])):
            path.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    """Whether a process of that number is there, whoever's it is."""
    try:
        return psutil.pid_exists(pid)
    except OverflowError:  # no number of a process, so nobody can say that it ended
        return True
