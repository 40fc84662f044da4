"""From a visitor's clip and sentences to what the page shows, step by step. Knows nothing of Gradio."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.report.images import decode
from rollout.errors import DataError, VideosegError
from rollout.types import RLE, Clip
from verl_ext.demo.engine import Engine, clip_of
from verl_ext.demo.film import PICTURE_SIDES, drawn_frame, side_of
from verl_ext.demo.limits import sentences_of
from verl_ext.demo.take_home import write_all
from verl_ext.demo.turns import said, turns_done, turns_so_far
from verl_ext.demo.visits import Visit, Visits

logger = logging.getLogger(__name__)

HOME = "take_home"
SAME_OBJECT = 0.5
"""From this IoU on the policy drew what was clicked."""


@dataclass(frozen=True)
class Shown:
    """What the page shows now."""

    said: str = ""
    turns: str = ""
    film: str | None = None
    files: tuple[str, ...] = ()
    frames: int = 0
    """Of the clip, once it is answered."""
    frame: int = 0
    """The one to look at first."""


def answer(engine: Engine, visits: Visits, session: str, upload: str | None, text: str) -> Iterator[Shown]:
    """Turns as they are generated, then masks. What goes wrong is said, in the visitor's words; nothing is raised."""
    visit: Visit | None = None
    try:
        if not upload:
            raise DataError("Bring a clip first, or pick an example.")
        sentences = sentences_of(text)
        visit = visits.take(session, upload)
        shutil.rmtree(visit.folder / HOME, ignore_errors=True)
        visit.job = engine.ask(visit.folder, sentences)
        clip = _clip(visit)
        now = Shown(said(f"{clip.num_frames} frames, {clip.width} x {clip.height}: answering …", "busy"))
        yield now
        for turns in visit.job:
            now = replace(now, turns=turns_so_far(clip, sentences, turns))
            yield now
        visit.answers = visit.job.answers()
        now = replace(now, said=said("Drawing …", "busy"), turns=turns_done(clip, visit.answers))
        yield now
        yield _finished(visit, clip, now)
    except Exception as e:  # whatever it was: the page says it in words, the log where it came from
        if not isinstance(e, VideosegError):
            logger.exception("a visitor's clip could not be answered")
        yield Shown(said(_in_their_words(e, visit)))


def _finished(visit: Visit, clip: Clip, now: Shown) -> Shown:
    answered = [a.record for a in visit.answers if a.record is not None]
    if not answered:
        return replace(now, said=said("No sentence could be answered; what was wrong stands below."))
    assert visit.job is not None
    film, *files = write_all(visit.folder / HOME, clip, visit.answers, visit.job.results)
    failed = len(visit.answers) - len(answered)
    words = f"{failed} of {len(visit.answers)} sentences failed, see below." if failed else "Done."
    chosen = next((r.chosen for r in answered if r.chosen is not None), clip.num_frames // 2)
    return Shown(
        said(words, "warning" if failed else "busy"),
        now.turns,
        str(film),
        tuple(str(path) for path in (film, *files)),
        clip.num_frames,
        min(max(chosen, 0), clip.num_frames - 1),
    )


def _clip(visit: Visit) -> Clip:
    if visit.clip is None:
        visit.clip = clip_of(visit.folder)
    return visit.clip


def picture(visit: Visit, frame: int) -> NDArray[np.uint8] | None:
    """(h, w, 3): a frame with the policy's masks; None before there are any."""
    if not visit.answers:
        return None
    clip = _clip(visit)
    frame = min(frame, clip.num_frames - 1)  # a slider has two places at least
    return drawn_frame(clip, frame, _masks(visit, frame), side_of(clip, PICTURE_SIDES))


def click(engine: Engine, visit: Visit, frame: int, x: float, y: float) -> tuple[NDArray[np.uint8] | None, str]:
    """What SAM 2 itself makes of a click at a pixel of `picture`, drawn, and what it tells of the policy's masks."""
    try:
        return _clicked(engine, visit, frame, x, y)
    except VideosegError as e:
        return None, said(_in_their_words(e, visit))


def _clicked(engine: Engine, visit: Visit, frame: int, x: float, y: float) -> tuple[NDArray[np.uint8], str]:
    clip = _clip(visit)
    frame = min(frame, clip.num_frames - 1)
    scale = side_of(clip, PICTURE_SIDES) / max(clip.width, clip.height)
    at = (min(x / scale, clip.width - 1), min(y / scale, clip.height - 1))
    own = engine.click(clip, frame, *at)
    return drawn_frame(clip, frame, [own], side_of(clip, PICTURE_SIDES)), said(
        _verdict(visit, clip, frame, own, at), "busy"
    )


def _verdict(visit: Visit, clip: Clip, frame: int, own: RLE, at: tuple[float, float]) -> str:
    there = decode(own, clip.height, clip.width, f"{clip.name}, click")
    if not there.any():
        return f"SAM 2 sees no object at ({at[0]:.0f}, {at[1]:.0f}) of frame {frame}."
    lines = []
    for a, rle in zip(visit.answers, _masks(visit, frame), strict=True):
        mask = decode(rle, clip.height, clip.width, f"{clip.name}, frame {frame}")
        iou = float((mask & there).sum() / (mask | there).sum())
        touched = mask[int(at[1]), int(at[0])]
        lines.append(f"“{a.sentence}”: IoU {iou:.2f}, {_told(iou, bool(mask.any()), bool(touched))}.")
    return " ".join(lines)


def _told(iou: float, drew: bool, touched: bool) -> str:
    if not drew:
        return "the policy drew nothing in this frame"
    if iou >= SAME_OBJECT:
        return "the policy drew this object"
    if touched:
        return "the policy's mask lies on it and is another: if this is what was meant, the mask is wrong, not the name"
    return "the policy drew something else: if this is what was meant, it named the wrong object"


def _masks(visit: Visit, frame: int) -> list[RLE | None]:
    return [a.record.prediction[frame] if a.record else None for a in visit.answers]


def _in_their_words(error: BaseException, visit: Visit | None) -> str:
    """Without this machine's paths."""
    text = str(error) if isinstance(error, VideosegError) else f"{type(error).__name__}: {error}"
    if visit is not None:
        for folder in (visit.folder / "videos", visit.folder, Path(visit.source).parent):
            text = text.replace(f"{folder}/", "")
    return text
