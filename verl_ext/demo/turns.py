"""Dialogues as a piece of the page: what each turn was shown, thought and said. Model text stays text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from eval.report.dialogue import split_turn
from rollout.types import Clip
from verl_ext.demo.engine import Answered
from verl_ext.demo.film import COLOURS
from verl_ext.viewer.pictures import frame_jpeg, frame_size

if TYPE_CHECKING:
    from eval.inference.onlooker import TurnSoFar

SIDE = 96
_PAGES = Environment(
    loader=PackageLoader("verl_ext.demo"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def css() -> str:
    return _PAGES.get_template("demo.css").render()


def said(text: str, kind: str = "warning") -> str:
    """One line above everything else."""
    return _PAGES.get_template("said.html").render(text=text, kind=kind)


def turns_so_far(clip: Clip, sentences: Sequence[str], turns: Sequence[Sequence[TurnSoFar]]) -> str:
    """HTML of dialogues that go on."""
    columns = [
        _column(clip, n, sentence, "answering …", [(t.shown, t.text, t.done) for t in told])
        for n, (sentence, told) in enumerate(zip(sentences, turns, strict=True))
    ]
    return _PAGES.get_template("turns.html").render(columns=columns)


def turns_done(clip: Clip, answers: Sequence[Answered]) -> str:
    """HTML of finished ones, with how each ended."""
    columns = []
    for n, a in enumerate(answers):
        ended = a.record.stop.value.replace("_", " ") if a.record else "failed"
        told = [(t.frames_shown, t.text, True) for t in (a.record.turns if a.record else ())]
        columns.append({**_column(clip, n, a.sentence, ended, told), "problem": a.problem, "seen": _seen(a)})
    return _PAGES.get_template("turns.html").render(columns=columns)


def _column(clip: Clip, n: int, sentence: str, state: str, turns: Sequence[Any]) -> dict[str, Any]:
    made = [
        {"frames": [_frame(clip, t) for t in shown], "parts": split_turn(text), "done": done}
        for shown, text, done in turns
    ]
    colour = "#{:02x}{:02x}{:02x}".format(*COLOURS[n])
    return {"sentence": sentence, "colour": colour, "state": state, "turns": made, "problem": "", "seen": ""}


def _frame(clip: Clip, t: int) -> dict[str, Any]:
    width, height = frame_size(clip, SIDE)
    uri = "data:image/jpeg;base64," + base64.b64encode(frame_jpeg(clip, t, SIDE)).decode("ascii")
    return {"number": t, "uri": uri, "width": width, "height": height}


def _seen(answer: Answered) -> str:
    """In how many frames there is a mask."""
    if answer.record is None:
        return ""
    from pycocotools import mask as coco_mask

    from rollout.types import packed

    found = [rle is not None and int(coco_mask.area(packed(rle))) > 0 for rle in answer.record.prediction]
    return f"a mask in {sum(found)} of {len(found)} frames"
