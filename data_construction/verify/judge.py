"""A second model's opinion: it sees the frames and the thinking, and says keep or reject."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from data_construction.verify.case import Case
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
_JSON = re.compile(r"\{.*\}", re.DOTALL)


class Judge(Protocol):
    """Anything that completes OpenAI-style chat messages; ``data_construction.vlm`` has one."""

    async def complete(self, messages: Sequence[dict[str, Any]]) -> str:
        """The reply's text."""
        ...


async def ask_judge(judge: Judge, case: Case) -> str | None:
    """Why the judge rejects the trace, or None. An answer that cannot be read is asked for once more, then counts
    as a rejection: nothing passes unjudged. Raises DataError for a frame that cannot be read.
    """
    messages = await asyncio.to_thread(judge_messages, case)  # decoding must not hold up the replies
    for _ in range(2):
        verdict = read_verdict(await judge.complete(messages))
        if verdict is not None:
            return None if verdict[0] == "keep" else verdict[1] or "no reason given"
    return "the judge's answer is not a verdict"


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


def read_verdict(text: str) -> tuple[str, str] | None:
    """(keep or reject, reason); None if the text holds no such JSON."""
    found = _JSON.search(text)
    try:
        value = json.loads(found.group()) if found else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or str(value.get("verdict", "")).lower() not in ("keep", "reject"):
        return None
    return str(value["verdict"]).lower(), str(value.get("reason") or "")


def _data_url(clip: Clip, frame: int, size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    load_frame_resized(clip, frame, *size).save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
