"""A second model's opinion: it sees the frames and the thinking, and says keep or reject."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data_construction.verify.case import Case
from data_construction.vlm import BadReplyError, GaveUpError
from rollout.frames import load_frame_resized, smart_size
from rollout.types import Clip

MOST_FRAMES = 8
BUDGET = 128
"""Of each picture, in units of 28 x 28 pixels."""

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["keep", "reject"]}, "reason": {"type": "string"}},
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
SYSTEM = (
    "You check training data. You get frames of a video (each after its label), a query about the video, and the "
    "written reasoning of an annotator who was to find what the query describes. Reject the reasoning if it claims "
    "something that the frames contradict, follows another object than the query describes, contradicts itself or its "
    "conclusion, or is not an argument at all. Otherwise keep it; style does not matter. Answer with JSON only: "
    '{"verdict": "keep" or "reject", "reason": "one sentence"}'
)
NO_OPINION = ("no_json", "no_verdict", "refused")
"""What a model may reply instead of a verdict. It was asked and did not say keep: nothing passes unjudged."""


@dataclass(frozen=True)
class Opinion:
    keep: bool
    reason: str


class Judge(Protocol):
    """Who is asked, with OpenAI-style chat messages; the reply's object is for ``read_opinion``."""

    async def opinion(self, messages: Sequence[dict[str, Any]]) -> Opinion:
        """Raises GaveUpError where there is none, and as ``vlm.Client.ask``."""
        ...

    def stop(self) -> None:
        """Ask no more; what is in flight comes to its end."""
        ...


async def ask_judge(judge: Judge, case: Case) -> str | None:
    """Why the judge rejects the trace, or None. A reply without a verdict rejects it too.

    Raises DataError for a frame that cannot be read, GaveUpError where the endpoint and not the model is at fault.
    """
    messages = await asyncio.to_thread(judge_messages, case)  # decoding must not hold up the replies
    try:
        opinion = await judge.opinion(messages)
    except GaveUpError as e:
        if e.reason not in NO_OPINION:
            raise
        return f"the judge gave no verdict: {e}"
    return None if opinion.keep else opinion.reason or "no reason given"


def read_opinion(value: dict[str, Any]) -> Opinion:
    """For ``vlm.Prompt.check``. Raises BadReplyError for an object without a verdict: it is asked for again."""
    verdict = str(value.get("verdict", "")).strip().lower()
    if verdict not in ("keep", "reject"):
        raise BadReplyError("no_verdict", f"the reply's verdict is {value.get('verdict')!r}")
    return Opinion(verdict == "keep", str(value.get("reason") or ""))


def judge_messages(case: Case) -> list[dict[str, Any]]:
    """System and user message; frames as data URIs, keyframes among them."""
    clip = case.sample.clip
    size = smart_size(clip.height, clip.width, BUDGET, factor=28)
    content: list[dict[str, Any]] = []
    for frame in judged_frames(case):
        content.append({"type": "text", "text": f"frame {frame}:"})
        content.append({"type": "image_url", "image_url": {"url": _data_url(clip, frame, size)}})
    thinking = "\n".join(f"Turn {n}: {think.strip()}" for n, think in enumerate(case.thinking, start=1))
    replies = "\n".join(case.trace.replies)
    conclusion = replies.rsplit("</think>", 1)[-1].strip()
    text = f"Query: {case.sample.expression.text}\n\nReasoning:\n{thinking}\n\nConclusion: {conclusion}"
    content.append({"type": "text", "text": text})
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def judged_frames(case: Case) -> list[int]:
    """The keyframes, and of the other frames shown as many as fit, evenly."""
    chosen = [g.keyframe for g in case.trace.chosen] if case.trace.keyframe is None else [case.trace.keyframe]
    keys = [k for k in dict.fromkeys(chosen) if 0 <= k < case.num_frames][-MOST_FRAMES:]
    others = [f for f in (case.seen[-1] if case.seen else []) if f not in keys]
    room = MOST_FRAMES - len(keys)
    step = max(1, -(-len(others) // room)) if room else 1
    return sorted([*keys, *(others[::step] if room else [])])


def _data_url(clip: Clip, frame: int, size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    load_frame_resized(clip, frame, *size).save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
