"""Veason-R1's seed traces (SPEC 3, Data): one turn, a keyframe and its boxes, three steps of reasoning."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_construction.cot import wording
from data_construction.cot.fields import fields_check, fields_schema
from data_construction.cot.lines import finished, unfinished
from data_construction.cot.pictures import FrameStore, image_tokens, picture
from data_construction.cot.runs import boxes_at, union_areas
from data_construction.generate import Item, SetAside, Source
from data_construction.problems import Problem
from data_construction.vlm import Client, Prompt, Usage
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.errors import RecipeError
from rollout.frames import keyframe_congruent
from rollout.messages import FramePart, Message
from rollout.types import Clip, Sample, StopReason

METHOD = "veason_r1"
STEPS = ("summary", "keyframe", "target")
TEXT_TOKENS = 500
"""Of the instructions, roughly."""
CELLS = (28, 32)
"""Patch times merge: of Qwen2.5-VL; of Qwen3-VL and Qwen3.5."""


@dataclass(frozen=True)
class SeedSettings:
    """``frames`` is n of SPEC 3, ``side`` the square that boxes and frames are in (pixels)."""

    frames: int = 8
    side: int = 560
    fps: float | None = None
    """Of the frames on disk: frame i is shown at i / fps seconds. None: the clip's own times, or 1 a second without.
    Of more than one frame a second the first of each second is taken: the method sees a 1-fps clip (SPEC 3)."""
    seed: int = 0
    max_chars: int = 600
    """Of each step."""

    def __post_init__(self) -> None:
        """Raises RecipeError for what no item could be made with, before the folder is opened."""
        if self.fps is not None and self.fps <= 0:
            raise RecipeError(f"fps = {self.fps}: must be positive")
        self.boxes()
        if all(self.side % cell for cell in CELLS):
            raise RecipeError(
                f"side = {self.side}: must be a multiple of {CELLS[0]} for a Qwen2.5-VL, of {CELLS[1]} for a Qwen3-VL "
                "or Qwen3.5 (patch * merge of the policy)"
            )

    @property
    def cell(self) -> int:
        """One that the side is a multiple of."""
        return next(cell for cell in CELLS if self.side % cell == 0)

    def boxes(self) -> BoxSettings:
        return BoxSettings(frames=self.frames, side=self.side, fps=self.fps or 0.0)


@dataclass(frozen=True)
class SeedPlan:
    """What a trace will say in numbers. ``boxes`` are in pixels of the square."""

    sample: Sample
    frames: tuple[int, ...]
    keyframe: int
    times: tuple[int, ...]
    """Of the frames, whole seconds."""
    boxes: list[list[int]]
    template: wording.SeedTemplate
    messages: list[Message]
    """The training protocol's."""

    @property
    def keyframe_time(self) -> int:
        return self.times[self.frames.index(self.keyframe)]


class SeedMethod:
    """See ``generate.Method``."""

    def __init__(self, source: Source, settings: SeedSettings) -> None:
        self.source, self.settings = source, settings
        self.frames = FrameStore()

    def plan(self, item: Item) -> SeedPlan:
        """Raises DataError for a sample without ground truth, or whose target is never visible."""
        s, sample = self.settings, item.sample
        where = {"clip": sample.clip.name, "item": f"expression {sample.expression.id}"}
        file = str(self.source.dataset.root)
        if sample.masklets is None:
            raise Problem("no_masks", file, "has no masks to take a keyframe and boxes from", **where).error()
        areas = union_areas(sample.masklets)
        if not areas.any():
            raise Problem("never_visible", file, "no target is visible in any frame", **where).error()
        rng = np.random.default_rng([s.seed, zlib.crc32(item.id.encode())])
        slow = np.array(s.boxes().candidates(sample.clip))
        if not areas[slow].any():
            what = "no target is visible in any frame at one frame a second"
            raise Problem("never_visible", file, what, **where).error()
        places, place = keyframe_congruent(areas[slow], s.frames, rng)
        while not areas[slow[place]]:  # Among the five largest are empty frames where fewer than five show a target.
            places, place = keyframe_congruent(areas[slow], s.frames, rng)
        frames, keyframe = slow[places].tolist(), int(slow[place])
        environment = SingleTurnBoxes(sample, s.boxes(), s.cell, frames=frames)
        messages = environment.begin()
        assert not isinstance(messages, StopReason)
        template = wording.SEED_TEMPLATES[int(rng.integers(len(wording.SEED_TEMPLATES)))]
        scale = np.array([s.side / sample.clip.width, s.side / sample.clip.height] * 2)
        boxes = [np.floor(np.array(b) * scale + 0.5).astype(int).tolist() for b in boxes_at(sample.masklets, keyframe)]
        return SeedPlan(sample, tuple(frames), keyframe, environment.timestamps, boxes, template, messages)

    def estimate(self, item: Item) -> list[int]:
        """Prompt tokens of each request."""
        return [TEXT_TOKENS + len(self.plan(item).frames) * image_tokens(self.settings.side, self.settings.side)]

    def prepare(self, item: Item) -> SeedWork:
        plan, side = self.plan(item), self.settings.side
        masklets = item.sample.masklets
        assert masklets is not None
        content: list[dict[str, Any]] = []
        for frame, time in zip(plan.frames, plan.times, strict=True):
            content.append({"type": "text", "text": f"Frame at {time} s:"})
            content.append(picture(self.frames, item.sample.clip, frame, side, side, boxes_at(masklets, frame)).part())
        task = wording.SEED_TASK.format(
            query=item.sample.expression.text,
            keyframe=plan.keyframe_time,
            count="one object" if len(plan.boxes) == 1 else f"{len(plan.boxes)} objects",
            max_chars=self.settings.max_chars,
            style=plan.template.style.format(keyframe=plan.keyframe_time),
        )
        again = wording.RETRY.format(reason=item.rejected) if item.rejected else ""
        content.append({"type": "text", "text": again + task})
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": wording.SEED_SYSTEM},
            {"role": "user", "content": content},
        ]
        return SeedWork(self, item, plan, messages)

    def failure(self, item: Item | SetAside, reason: str, usage: Usage) -> dict[str, Any]:
        return unfinished(self.source.dataset, METHOD, item, reason, usage)


@dataclass(frozen=True)
class SeedWork:
    """See ``generate.Work``."""

    method: SeedMethod
    item: Item
    plan: SeedPlan
    messages: list[dict[str, Any]]

    async def ask(self, client: Client) -> dict[str, Any]:
        limit, side = self.method.settings.max_chars, self.method.settings.side
        reply = await client.ask(
            Prompt(
                self.messages,
                fields_schema(STEPS, limit),
                fields_check(STEPS, limit),
                TEXT_TOKENS + len(self.plan.frames) * image_tokens(side, side),
                salt=f"attempt {self.item.attempt}" if self.item.attempt > 1 else "",
            )
        )
        record = seed_record(self.plan, self.plan.template.joined.format(**reply.value))
        shown = shown_of(self.plan.sample.clip, self.method.settings)
        return finished(self.method.source.dataset, METHOD, self.item, record, reply.usage, shown=shown)


def shown_of(clip: Clip, settings: SeedSettings) -> dict[str, float]:
    """What a trace states of how it was made: the side, and frames a second unless the clip has times of its own."""
    own_times = clip.times and settings.fps is None
    return {"side": settings.side} | ({} if own_times else {"fps": settings.fps or clip.fps or 1.0})


def seed_record(plan: SeedPlan, think: str) -> dict[str, Any]:
    """``{"frames", "keyframe", "conversations", "bbox_2d_list"}``: the protocol's prompt and its right answer."""
    answer = json.dumps({"keyframe_timestamp": plan.keyframe_time, "bbox_2d_list": plan.boxes})
    names = {"system": "system", "user": "human"}
    turns = [{"from": names[m.role], "value": flat_text(m)} for m in plan.messages]
    turns.append({"from": "gpt", "value": f"<think>{think}</think><answer>{answer}</answer>"})
    record: dict[str, Any] = {"frames": list(plan.frames), "keyframe": plan.keyframe}
    return {**record, "conversations": turns, "bbox_2d_list": plan.boxes}


def flat_text(message: Message) -> str:
    """A message with ``<image>`` for each frame."""
    return "".join("<image>" if isinstance(p, FramePart) else p.text for p in message.parts)
