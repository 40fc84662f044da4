"""Who is here, and the files of each: in one temporary folder, which goes with the demo, a visitor's part with them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from data_construction.partials import alive
from rollout.errors import DataError
from rollout.types import Clip
from verl_ext.demo.engine import VIDEOS, Answered, Job
from verl_ext.demo.limits import Limits, check_upload

PREFIX = "videoseg_demo_"
GUESTS, SHOWN = "guests", "examples"


@contextmanager
def scratch() -> Iterator[Path]:
    """The demo's folder, for Gradio's uploads as well; one that a killed demo of this user left is removed too."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*_*"):
        pid = old.name.removeprefix(PREFIX).partition("_")[0]
        if pid.isdigit() and not alive(int(pid)) and old.stat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}_"))
    try:
        for name in (GUESTS, SHOWN):
            (folder / name).mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Visit:
    """One visitor's clip and what was answered about it."""

    folder: Path
    source: str = ""
    """The upload that ``folder`` holds."""
    clip: Clip | None = None
    """That video, once it was asked about."""
    job: Job | None = None
    answers: list[Answered] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return self.job is not None and not self.job.over.is_set()


class Visits:
    """By the page's session. Safe for many threads."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root, self._limits, self._lock = root, limits, threading.Lock()
        self._visits: dict[str, Visit] = {}

    def of(self, session: str) -> Visit:
        with self._lock:
            if session not in self._visits:
                self._visits[session] = Visit(Path(tempfile.mkdtemp(dir=self._root / GUESTS)))
            return self._visits[session]

    def take(self, session: str, upload: str) -> Visit:
        """The visitor's folder with a clip of theirs in it; one that is there already stays where it is, so that what
        was encoded of it is of use again.

        Raises DataError for a clip that is not taken, and while another job of the visitor's goes on.
        """
        visit = self.of(session)
        if visit.busy:
            raise DataError("Your last clip is still under way: one at a time. It is yours when it is done.")
        if visit.source != upload:
            check_upload(Path(upload), self._limits)
            shutil.rmtree(visit.folder, ignore_errors=True)
            (visit.folder / VIDEOS).mkdir(parents=True)
            kept = visit.folder / VIDEOS / _plain_name(upload)
            with suppress(OSError):
                os.link(upload, kept)
            if not kept.exists():
                shutil.copyfile(upload, kept)
            self._drop_upload(visit.source)
            visit.source, visit.clip = upload, None
        visit.answers = []
        return visit

    def leave(self, session: str) -> None:
        """Once nothing of theirs is under way their files go, and with the last visitor's whatever was uploaded."""
        with self._lock:
            visit = self._visits.pop(session, None)
        if visit is None:
            return
        if visit.job is not None:
            visit.job.over.wait()
        shutil.rmtree(visit.folder, ignore_errors=True)
        self._drop_upload(visit.source)
        with self._lock:
            if not self._visits:
                for other in self._root.iterdir():
                    if other.name not in (GUESTS, SHOWN):
                        shutil.rmtree(other, ignore_errors=True)

    def _drop_upload(self, upload: str) -> None:
        """Gradio keeps one copy of equal files: it stays while another visitor has it. Examples stay."""
        folder = Path(upload).parent
        ours = folder.parent == self._root and folder.name != SHOWN
        with self._lock:
            if ours and not any(visit.source == upload for visit in self._visits.values()):
                shutil.rmtree(folder, ignore_errors=True)


def _plain_name(upload: str) -> str:
    """A clip's name in results and archives: letters, digits, dash and underscore."""
    path = Path(upload)
    return (re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_")[:40] or "clip") + path.suffix.lower()
