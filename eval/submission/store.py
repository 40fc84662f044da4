"""Where a submission's files go and come from: a zip, or a folder. Names are checked on both ways."""

from __future__ import annotations

import os
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from data_construction.atomic import new_folder
from data_construction.partials import alive
from eval.results.record import check_name
from rollout.errors import DataError

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Every file's date in a zip: the same content gives the same bytes."""
PARTIAL = ".partial"


class Source(Protocol):
    """A finished submission to read."""

    def sizes(self) -> dict[str, int]:
        """Path -> bytes once unpacked. Raises DataError for a path that could leave the folder or stands twice."""
        ...

    def read(self, path: str) -> bytes: ...


Add = Callable[[str, bytes], None]


@contextmanager
def new_zip(target: Path, check: Callable[[Path], None]) -> Iterator[Add]:
    """``add(path, content)``; the file becomes ``target`` when the block ends well and ``check`` does not raise.

    Content is stored as it is: PNGs do not shrink, and the bytes do not depend on a compressor's version.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    part = target.with_name(f"{_prefix(target)}{os.getpid()}{PARTIAL}")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:

            def add(path: str, content: bytes) -> None:
                check_name(path, f"{target}: file", nested=True)
                entry = zipfile.ZipInfo(path, LONG_AGO)
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                archive.writestr(entry, content)

            yield add
        check(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}-"


def _remove_abandoned(target: Path) -> None:
    """Delete what a killed process of this machine left for the same target: as large as the submission."""
    for path in target.parent.iterdir():
        pid = path.name.removeprefix(_prefix(target)).removesuffix(PARTIAL)
        if path.name == f"{_prefix(target)}{pid}{PARTIAL}" and pid.isdigit() and not alive(int(pid)):
            path.unlink(missing_ok=True)


@contextmanager
def new_tree(target: Path, check: Callable[[Path], None]) -> Iterator[Add]:
    """The same for a folder."""
    with new_folder(target) as folder:

        def add(path: str, content: bytes) -> None:
            check_name(path, f"{target}: file", nested=True)
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

        yield add
        check(folder)


class ZipSource:
    """A zip; nothing is unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read as a zip ({error})") from error

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in self._archive.infolist():
            if entry.is_dir():
                continue
            check_name(entry.filename, f"{self.path}: file", nested=True)
            if entry.filename in found:
                raise DataError(f"{self.path}: {entry.filename} stands there twice")
            if entry.flag_bits & 1 or (entry.external_attr >> 16) & 0o170000 == 0o120000:
                raise DataError(f"{self.path}: {entry.filename} is encrypted or a link; pack plain files")
            found[entry.filename] = entry.file_size
        return found

    def read(self, path: str) -> bytes:
        try:
            return self._archive.read(path)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DataError(f"{self.path}: {path} cannot be read ({error}); pack it again") from error


class TreeSource:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder, name)
                path = file.relative_to(self.path).as_posix()
                if file.is_symlink() or not file.is_file():
                    raise DataError(f"{self.path}: {path} is a link or no plain file; pack plain files")
                found[path] = file.stat().st_size
        return found

    def read(self, path: str) -> bytes:
        return (self.path / path).read_bytes()


def open_source(path: Path) -> Source:
    """The submission at ``path``. Raises DataError if there is none."""
    if path.is_dir():
        return TreeSource(path)
    if not path.is_file():
        raise DataError(f"{path}: no submission there, neither a zip nor a folder")
    return ZipSource(path)
