"""A manifest of a data set's folder: one JSON line a file with size and SHA-256, and a last one that seals the list."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_construction.problems import Problem, Progress
from data_construction.readers.listing import is_litter
from rollout.errors import DataError

BLOCK = 1 << 20
FORMAT = 1


def write_manifest(root: Path, path: Path, dataset: str, progress: Progress | None = None) -> int:
    """Write ``path`` for every file under ``root`` in the order of their names; returns how many there are.

    Streamed: memory does not grow with the number of files. ``path`` is whole or as it was before.
    Raises DataError if a file cannot be read or there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    seal, count, size = hashlib.sha256(), 0, 0
    total = sum(1 for _ in files_of(root, path)) if progress is not None else 0
    try:
        with partial.open("w", encoding="utf-8") as out:
            out.write(json.dumps({"manifest": FORMAT, "dataset": dataset}) + "\n")
            for name, file in files_of(root, path, partial):
                entry = {"file": name, "bytes": file.stat().st_size, "sha256": sha256(file)}
                line = json.dumps(entry, ensure_ascii=True)
                seal.update(line.encode())
                out.write(line + "\n")
                count, size = count + 1, size + entry["bytes"]  # type: ignore[operator]
                if progress is not None:
                    progress(count, total, "writing checksums")
            if not count:
                raise DataError(f"{root}: holds no files; a manifest of nothing is none")
            out.write(json.dumps({"files": count, "bytes": size, "seal": seal.hexdigest()}) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    except OSError as e:
        raise DataError(f"{e.filename or path}: {e.strerror or e}; the manifest was not written") from e
    finally:
        partial.unlink(missing_ok=True)
    return count


def verify_manifest(root: Path, path: Path, progress: Progress | None = None) -> Iterator[Problem]:
    """Files that are missing, changed or new since ``path`` was written, in the order of their names.

    Raises DataError if the manifest itself is damaged or cut short.
    """
    total = sum(1 for _ in files_of(root, path)) if progress is not None else 0
    on_disk = files_of(root, path)
    now = next(on_disk, None)
    for n, entry in enumerate(_entries(path)):
        if progress is not None:
            progress(min(n, total), total, "comparing checksums")
        name = _name(entry, path)
        while now is not None and _order(now[0]) < _order(name):
            yield Problem("new_file", str(now[1]), "is not in the manifest", remedy="remove it, or write it again")
            now = next(on_disk, None)
        if now is None or now[0] != name:
            yield Problem("lost_file", str(root / name), "is in the manifest and not here", remedy="get it again")
            continue
        yield from _compared(now[1], entry)
        now = next(on_disk, None)
    while now is not None:
        yield Problem("new_file", str(now[1]), "is not in the manifest", remedy="remove it, or write it again")
        now = next(on_disk, None)


def _compared(file: Path, entry: dict[str, Any]) -> Iterator[Problem]:
    try:
        size = file.stat().st_size
        if size != entry.get("bytes"):
            what = f"has {size} bytes, {entry.get('bytes')} in the manifest"
            yield Problem("changed_file", str(file), what, remedy="get it again")
        elif sha256(file) != entry.get("sha256"):
            yield Problem("changed_file", str(file), "has another SHA-256 than in the manifest", remedy="get it again")
    except OSError as e:
        yield Problem("unreadable_file", str(file), f"cannot be read ({e.strerror or e})", remedy="get it again")


def _name(entry: Any, path: Path) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        raise DataError(f"{path}: {str(entry)[:80]!r} is no line of a manifest; write it again")
    return str(entry["file"])


def files_of(root: Path, *without: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file below ``root``, folder by folder in the order of their names. Raises DataError.

    What systems leave behind (``.DS_Store``) comes and goes, and is left out.
    """
    skipped = {p.absolute() for p in without}

    def walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
        try:
            with os.scandir(folder) as entries:
                found = sorted((e for e in entries if not is_litter(e.name)), key=lambda e: e.name)
        except OSError as e:
            raise DataError(f"{folder}: cannot be listed ({e.strerror or e}); mend its permissions") from e
        for entry in found:
            path = Path(entry.path)
            if entry.is_dir():
                yield from walk(path, f"{prefix}{entry.name}/")
            elif path.absolute() not in skipped and not entry.name.endswith(".partial"):
                yield f"{prefix}{entry.name}", path

    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check the data set's root")
    yield from walk(root, "")


def sha256(file: Path) -> str:
    """Of a file's bytes, read block by block."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _order(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The listed files; checks the seal after the last, so a manifest that was cut or edited is not believed."""
    seal, last = hashlib.sha256(), None
    try:
        with path.open(encoding="utf-8") as lines:
            head = json.loads(next(lines, "null"))
            if not isinstance(head, dict) or head.get("manifest") != FORMAT:
                raise DataError(f"{path}: is no manifest of format {FORMAT}")
            for line in lines:
                last = json.loads(line)
                if isinstance(last, dict) and "seal" in last:
                    break
                seal.update(line.rstrip("\n").encode())
                yield last
    except (OSError, ValueError, TypeError) as e:
        raise e if isinstance(e, DataError) else DataError(f"{path}: cannot be read as a manifest ({e})") from e
    if not isinstance(last, dict) or last.get("seal") != seal.hexdigest():
        raise DataError(f"{path}: its list is cut short or was edited (the seal does not fit); write it again")
