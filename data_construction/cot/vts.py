"""VideoSEG-O3's multi-turn traces (SPEC 2.6): decisions planned from ground truth, reasoning written by a model.

Each turn's request is the dialogue as the real environment would have had it so far, with the very frames that the
turn would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from data_construction.cot.build import read_names
from data_construction.cot.fields import fields_check, fields_schema
from data_construction.cot.lines import finished, unfinished
from data_construction.cot.pictures import FrameStore, Picture, picture
from data_construction.cot.runs import boxes_at, union_areas
from data_construction.cot.tracks import track
from data_construction.cot.vts_plan import VTSPlan, VTSSettings, plan_trace
from data_construction.cot.vts_request import request_messages
from data_construction.generate import Item, SetAside, Source
from data_construction.problems import Problem
from data_construction.readers.records import VTSCoTRecord, rl_annotation
from data_construction.vlm import Client, GaveUpError, Prompt, Usage
from rollout.messages import FramePart
from rollout.protocol import format_turn

METHOD = "videoseg_o3"
STEPS = ("temporal", "spatial", "language", "action")
Shown = tuple[int, int, int]
"""Frame, height, width."""


class VTSMethod:
    """See ``generate.Method``."""

    def __init__(self, source: Source, settings: VTSSettings) -> None:
        self.source, self.settings = source, settings
        self.names = read_names(source.dataset.root)
        self.frames = FrameStore()

    def plan(self, item: Item) -> VTSPlan:
        """Raises DataError for a sample without ground truth, or whose target is never visible."""
        sample = item.sample
        where = {"clip": sample.clip.name, "item": f"expression {sample.expression.id}"}
        file = str(self.source.dataset.root)
        if sample.masklets is None:
            raise Problem("no_masks", file, "has no masks to plan a trace from", **where).error()
        areas = union_areas(sample.masklets)
        if sample.expression.anno_ids and not areas.any():
            raise Problem("never_visible", file, "no target is visible in any frame", **where).error()
        names = self.names.get(sample.clip.name, {})
        ids = sample.expression.anno_ids
        objects = [track(a, names.get(a, "target"), sample.masklets, ids.index(a)) for a in dict.fromkeys(ids)]
        return plan_trace(sample, objects, areas, self.settings, item.attempt)

    def estimate(self, item: Item) -> list[int]:
        """Prompt tokens of each request."""
        return self.plan(item).prompt_tokens()

    def prepare(self, item: Item) -> VTSWork:
        plan, masklets, clip = self.plan(item), item.sample.masklets, item.sample.clip
        pictures: dict[tuple[Shown, bool], Picture] = {}
        for n, turn in enumerate(plan.turns):
            for part in (p for t in plan.turns[: n + 1] for p in t.message.parts if isinstance(p, FramePart)):
                shown, marked = (part.frame, part.height, part.width), self.settings.marks and not turn.tentative
                if (shown, marked) not in pictures:
                    boxes = boxes_at(masklets, part.frame) if marked and masklets is not None else ()
                    pictures[shown, marked] = picture(self.frames, clip, *shown, boxes)
        return VTSWork(self, item, plan, pictures)

    def failure(self, item: Item | SetAside, reason: str, usage: Usage) -> dict[str, Any]:
        return unfinished(self.source.dataset, METHOD, item, reason, usage)


@dataclass(frozen=True)
class VTSWork:
    """See ``generate.Work``."""

    method: VTSMethod
    item: Item
    plan: VTSPlan
    pictures: dict[tuple[Shown, bool], Picture]

    async def ask(self, client: Client) -> dict[str, Any]:
        s, usage = self.method.settings, Usage()
        schema, check = fields_schema(STEPS, s.max_chars), fields_check(STEPS, s.max_chars)
        tokens = self.plan.prompt_tokens()
        replies: list[str] = []
        for n, turn in enumerate(self.plan.turns):
            messages = request_messages(
                self.plan.turns[: n + 1], replies, self._picture, s.marks, s.max_chars, self.item.rejected
            )
            salt = f"attempt {self.item.attempt}" if self.item.attempt > 1 else ""
            try:
                reply = await client.ask(Prompt(messages, schema, check, tokens[n], salt))
            except GaveUpError as e:
                e.wasted += usage  # The turns before were paid for as well.
                raise
            usage += reply.usage
            replies.append(format_turn(think_of(reply.value), turn.action, turn.grounding))
        record = replace(self.plan.record, conversations=_replaced(self.plan.record, replies))
        annotation = rl_annotation(self.plan.sample, self.plan.existence)
        shown = {
            "low": s.exploration.temporal_budget,
            "spatial": s.exploration.spatial_budget,
            "keyframe": s.exploration.keyframe_budget,
        }
        more = {"rl_annotation": annotation, "shown": shown}
        return finished(self.method.source.dataset, METHOD, self.item, record.to_dict(), usage, **more)

    def _picture(self, part: FramePart, marked: bool) -> Picture:
        return self.pictures[(part.frame, part.height, part.width), marked]


def think_of(steps: dict[str, str]) -> str:
    """The decoupled thinking of SPEC 2.1."""
    said = {k: v if v[-1] in ".!?" else f"{v}." for k, v in steps.items()}
    return "Step 1: {temporal} Step 2: {spatial} Step 3: {language} Action: {action}".format(**said)


def _replaced(record: VTSCoTRecord, replies: list[str]) -> tuple[tuple[str, str], ...]:
    left = iter(replies)
    return tuple((who, next(left) if who == "gpt" else value) for who, value in record.conversations)
