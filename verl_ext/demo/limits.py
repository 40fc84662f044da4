"""What a visitor may bring, and what is said of anything else: by its name, never by where it lies here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rollout.errors import DataError
from rollout.video import VIDEO_SUFFIXES, video_facts
from rollout.video_file import VideoFacts

MIB = 1 << 20
MOST_SIDE = 4096
MOST_SENTENCES, MOST_LETTERS = 8, 400
HEAD_BYTES = 16
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


@dataclass(frozen=True)
class Limits:
    """Of one clip."""

    megabytes: int = 200
    frames: int = 600

    @property
    def words(self) -> str:
        return f"{self.frames} frames, {self.megabytes} MB, {MOST_SIDE} pixels a side"


def check_upload(file: Path, limits: Limits) -> VideoFacts:
    """Raises DataError, naming the file, for what is no clip that can be answered here."""
    name = file.name
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        raise DataError(f"{name}: not a video that can be read here; bring one of {', '.join(VIDEO_SUFFIXES)}")
    if not file.is_file():
        raise DataError(f"{name}: is not here any more; bring it again")
    size = file.stat().st_size
    if size == 0:
        raise DataError(f"{name}: is empty (0 bytes); the upload may have been cut off, bring it again")
    if size > limits.megabytes * MIB:
        raise DataError(f"{name}: has {size / MIB:.0f} MB, at most {limits.megabytes} are taken; make it shorter")
    if not _is_container(file):
        # by its first bytes, not its name: FFmpeg would also follow playlists, which name other files
        raise DataError(f"{name}: is no video, whatever it is called; bring MP4, MOV, MKV, WebM or AVI")
    try:
        facts = video_facts(file)
    except DataError as e:
        raise DataError(named(str(e), file)) from e
    if facts.num_frames > limits.frames:
        seconds = f" ({facts.num_frames / facts.fps:.0f} s)" if facts.fps else ""
        raise DataError(
            f"{name}: has {facts.num_frames} frames{seconds}, at most {limits.frames} are taken; cut out the part that "
            "matters"
        )
    if max(facts.height, facts.width) > MOST_SIDE:
        raise DataError(
            f"{name}: is {facts.width} x {facts.height} pixels, at most {MOST_SIDE} a side; make it smaller"
        )
    return facts


def sentences_of(text: str) -> list[str]:
    """One a line. Raises DataError for none, too many, or one that is too long."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise DataError("Say what to look for: one sentence a line.")
    if len(found) > MOST_SENTENCES:
        raise DataError(f"{len(found)} sentences, at most {MOST_SENTENCES} at a time; ask the others afterwards")
    if long := next((line for line in found if len(line) > MOST_LETTERS), None):
        raise DataError(f"“{long[:40]}…” has {len(long)} letters, at most {MOST_LETTERS} a sentence")
    return found


def named(message: str, file: Path) -> str:
    """A message about a file here, as its owner knows it."""
    return message.replace(str(file), file.name).replace(f"{file.parent}/", "")


def _is_container(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return head[4:8] in _BOXES or head[:4] == b"\x1aE\xdf\xa3" or avi
