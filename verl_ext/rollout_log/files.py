"""One file a step, ``rollouts/step_000012.jsonl``: whole or not there.

Its first line says what the groups are and where their lines begin, so that a list of ten thousand rollouts needs the
heads of the files alone, and a group one seek. The lines after it are a group each (:class:`KeptGroup`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_construction.atomic import write_whole
from rollout.errors import DataError
from verl_ext.rollout_log.records import KeptGroup

FOLDER = "rollouts"
"""In ``output_dir``."""
FORMAT = 1
_NAME = re.compile(r"step_(\d{1,12})\.jsonl")


class DamagedStep(DataError):
    """A step file, or a group of it, that cannot be read: torn, of another version, or leading out of the run."""


@dataclass(frozen=True)
class StepFile:
    """A file that is there, before it is read."""

    step: int
    folder: Path
    name: str
    stamp: tuple[int, int]
    """(nanoseconds, bytes): another one means that the step was written anew."""

    @property
    def path(self) -> Path:
        return self.folder / self.name


def step_files(run_dir: Path) -> list[StepFile]:
    """In the order of their steps; nothing where no rollouts are kept."""
    folder = run_dir / FOLDER
    found = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None:
            continue
        try:
            stat = entry.stat()
        except OSError:  # a link to nothing, or gone since
            found.append(StepFile(int(match[1]), folder, entry.name, (0, 0)))
            continue
        found.append(StepFile(int(match[1]), folder, entry.name, (stat.st_mtime_ns, stat.st_size)))
    return sorted(found, key=lambda f: f.step)


def write_step(run_dir: Path, step: int, groups: Sequence[KeptGroup]) -> Path:
    """Write a step's groups, replacing what an earlier attempt at the step left."""
    lines = [json.dumps(group.to_dict(), separators=(",", ":"), allow_nan=False) for group in groups]
    at, heads = 0, []
    for group, line in zip(groups, lines, strict=True):
        size = len(line.encode())
        heads.append({"at": at, "bytes": size, **_head(group)})
        at += size + 1
    header = json.dumps({"format": FORMAT, "step": step, "groups": heads}, separators=(",", ":"), allow_nan=False)
    path = run_dir / FOLDER / f"step_{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(f"{line}\n" for line in (header, *lines)))
    return path


def _head(group: KeptGroup) -> dict[str, Any]:
    """What lists and filters need to know of a group."""
    rollouts = group.to_dict()["rollouts"]
    return {
        "sample": group.sample,
        "clip": group.clip.name,
        "text": group.text,
        "kind": group.kind,
        "reward": [r["rewards"].get("total") for r in rollouts],
        "advantage": [r["advantage"] for r in rollouts],
        "stop": [r["stop"] for r in rollouts],
        "turns": [len(r["turns"]) for r in rollouts],
    }


def read_header(file: StepFile, run_dir: Path) -> dict[str, Any]:
    """``{"step", "groups", "body"}``; ``body`` is where the groups' lines begin. Raises DamagedStep."""
    with _inside(file.path, run_dir).open("rb") as f:
        line = f.readline()
    try:
        head = json.loads(line)
        if not line.endswith(b"\n") or head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}, this version reads {FORMAT}")
        groups = [_checked_head(group) for group in head["groups"]]
    except (ValueError, KeyError, TypeError) as e:
        raise DamagedStep(f"{file.path.name}: its first line cannot be read ({_words(e)}): {_why(line)}") from e
    return {"step": file.step, "groups": groups, "body": len(line)}


def read_group(file: StepFile, header: Mapping[str, Any], number: int, run_dir: Path) -> KeptGroup:
    """Raises DamagedStep for a line that is torn or no group."""
    head = header["groups"][number]
    with _inside(file.path, run_dir).open("rb") as f:
        f.seek(header["body"] + head["at"])
        line = f.read(head["bytes"])
    try:
        return KeptGroup.from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        torn = len(line) < head["bytes"]
        what = "is cut off" if torn else f"cannot be read ({_words(e)})"
        raise DamagedStep(f"{file.path.name}: the line of group {number} {what}") from e


def forget_steps_after(run_dir: Path, step: int) -> None:
    """Remove the files of steps that a continued run will do again."""
    for file in step_files(run_dir):
        if file.step > step:
            file.path.unlink(missing_ok=True)


def _inside(path: Path, run_dir: Path) -> Path:
    """The file itself. Raises DamagedStep for one that is gone, or a link that leads out of the run's folder."""
    real = path.resolve()
    if not real.is_relative_to(run_dir.resolve()):
        raise DamagedStep(f"{path.name}: refused, it is a link that leads out of {run_dir}")
    if not real.is_file():
        raise DamagedStep(f"{path.name}: is gone")
    return real


def _checked_head(group: Any) -> dict[str, Any]:
    for key in ("sample", "clip", "text", "kind"):
        if not isinstance(group[key], str):
            raise TypeError(f"{key} is no text")
    for key in ("reward", "advantage", "turns"):
        if not all(v is None or isinstance(v, int | float) for v in group[key]):
            raise TypeError(f"{key} is no list of numbers")
    lengths = {len(group[key]) for key in ("reward", "advantage", "stop", "turns")}
    if len(lengths) != 1 or not all(isinstance(v, int) and v >= 0 for v in (group["at"], group["bytes"])):
        raise ValueError("a group's numbers do not fit each other")
    return dict(group)


def _why(line: bytes) -> str:
    if not line:
        return "the file is empty"
    return "it is cut off" if not line.endswith(b"\n") else "it is no line of this project's"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
