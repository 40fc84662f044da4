"""Running an episode: environment, conversation and policy, turn by turn.

`roll_out` samples from a policy; `replay` feeds given replies through the very same steps, so that supervised
data is the dialogue that reinforcement learning would have had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from rollout.conversation import Conversation
from rollout.environment import Environment
from rollout.errors import DataError
from rollout.messages import Message
from rollout.protocol import clamp
from rollout.types import RLE, Action, Episode, StopReason
from rollout.verification import MasksWanted, first_answer

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

NEVER = -100.0
"""Logit bias of a token that may not be sampled (the least that vLLM accepts)."""


@dataclass(frozen=True)
class Generated:
    """A reply from the engine. ``finish_reason`` ``"length"`` says that it was cut; under any other a reply of full
    length without a stop token is taken for cut as well, because some engines report every end alike."""

    token_ids: list[int]
    log_probs: list[float] | None
    finish_reason: str


class Generate(Protocol):
    """The policy: all token ids and images so far -> a reply of at most ``max_tokens``."""

    async def __call__(
        self,
        prompt_token_ids: list[int],
        images: list[Image],
        max_tokens: int,
        stop_token_ids: list[int],
        sampling: Mapping[str, Any],
        /,
    ) -> Generated: ...


class Draw(Protocol):
    """The segmenter: what it draws of an answered dialogue in some frames, at the clip's size. Sees no ground truth."""

    async def __call__(
        self, answer: Episode, conversation: Conversation, frames: Sequence[int], /
    ) -> Mapping[int, RLE]: ...


async def roll_out(
    environment: Environment,
    conversation: Conversation,
    generate: Generate,
    sampling: Mapping[str, Any],
    turn_length: int,
    draw: Draw | None = None,
) -> Episode:
    """One episode. ``sampling`` goes to the engine as it is, with a ``logit_bias`` that rules out control tokens.

    ``draw`` makes the masks of an answer for an environment that shows them; without it such an environment is told so.

    A turn begins only if its user message *and* ``turn_length`` tokens fit. The reply may take as many, or one less
    where nothing would be left for the closing token, which is ours after a cut reply. A clip whose frames cannot be
    read ends as ``refused_clip``, with the error logged. Malformed replies never raise.
    """
    bias = dict.fromkeys(conversation.forbidden_token_ids(), NEVER)
    params = {**sampling, "logit_bias": {**sampling.get("logit_bias", {}), **bias}}
    seg_positions: list[list[int]] = []
    outcome = environment.begin()
    while not isinstance(outcome, StopReason):
        if not conversation.append_user(outcome, reserve=max(turn_length, 2)):  # one token to sample, one to close
            outcome = StopReason.CONTEXT_FULL
            break
        try:
            images = await asyncio.to_thread(conversation.images)
        except DataError as e:
            logger.error("episode refused: %s", e)
            outcome = StopReason.REFUSED_CLIP
            break
        limit, stops = min(turn_length, conversation.room - 1), conversation.stop_token_ids()
        out = await generate(list(conversation.token_ids), images, limit, stops, params)
        said = _take_turn(environment, conversation, out, seg_positions)
        if _was_cut(out, limit, stops):
            outcome = StopReason.LENGTH
        elif isinstance(said, MasksWanted):
            answer = _finish(environment, StopReason.ANSWERED, seg_positions)
            outcome = environment.see(None if draw is None else await draw(answer, conversation, said.frames))  # type: ignore[attr-defined]
        else:
            outcome = said
    return _finish(environment, outcome, seg_positions)


def replay(environment: Environment, conversation: Conversation, replies: Sequence[str]) -> Episode:
    """The dialogue in which the policy said ``replies``; no frame is loaded until the conversation is asked.

    Stops where the environment stops; if it wants to go on after the last reply, the reason is ``turn_limit``.
    """
    seg_positions: list[list[int]] = []
    outcome = environment.begin()
    for reply in replies:
        if isinstance(outcome, StopReason):
            break
        ids = [*conversation.tokenizer.encode(reply, add_special_tokens=False), conversation.chat.im_end]
        if not conversation.append_user(outcome, reserve=len(ids)):
            outcome = StopReason.CONTEXT_FULL
            break
        said = _take_turn(environment, conversation, Generated(ids, None, "stop"), seg_positions)
        outcome = environment.see(None) if isinstance(said, MasksWanted) else said  # type: ignore[attr-defined]
    stop = outcome if isinstance(outcome, StopReason) else StopReason.TURN_LIMIT
    return _finish(environment, stop, seg_positions)


def _take_turn(
    environment: Environment, conversation: Conversation, out: Generated, seg_positions: list[list[int]]
) -> list[Message] | StopReason | MasksWanted:
    reply = conversation.append_assistant(out.token_ids, out.log_probs)
    seg_positions.append(list(reply.seg_positions))
    return environment.step(reply.text)


def _was_cut(out: Generated, max_tokens: int, stop_token_ids: Sequence[int]) -> bool:
    full = len(out.token_ids) >= max_tokens and out.token_ids[-1] not in stop_token_ids
    return full or out.finish_reason == "length"


def _finish(environment: Environment, stop: StopReason, seg_positions: list[list[int]]) -> Episode:
    episode = environment.episode(stop)
    for turn, positions in zip(episode.turns, seg_positions, strict=True):
        turn.seg_positions = positions
    return episode


def scripted(conversation: Conversation, replies: Sequence[str | Sequence[int]]) -> Generate:
    """A policy that says ``replies`` (texts or token ids) in turn; obeys limits and stop tokens as an engine does."""
    remaining = iter(replies)

    async def generate(
        prompt_token_ids: list[int],
        images: list[Image],
        max_tokens: int,
        stop_token_ids: list[int],
        sampling: Mapping[str, Any],
    ) -> Generated:
        reply = next(remaining)
        if isinstance(reply, str):
            ids = [*conversation.tokenizer.encode(reply, add_special_tokens=False), conversation.chat.im_end]
        else:
            ids = list(reply)
        end = next((i + 1 for i, t in enumerate(ids) if t in stop_token_ids), None)
        ids = ids[: end if end is not None else len(ids)]
        cut = end is None or end > max_tokens
        return Generated(ids[:max_tokens], [0.0] * min(len(ids), max_tokens), "length" if cut else "stop")

    return generate


def seg_of_turns(episode: Episode) -> list[int | None]:
    """Per turn, which of its ``[SEG]`` (by place among them) draws its masks; None where it has none.

    The first of a turn; of an answer's last turn that has any the newest, which evaluation propagates as the release
    does. Where the policy saw its own masks there are two answers: the one that was drawn for it, and the turn after.
    """
    if episode.verdict is not None:
        verdict = replace(episode, turns=episode.turns[-1:], verdict=None)
        return [*seg_of_turns(first_answer(episode)), *seg_of_turns(verdict)]
    found: list[int | None] = [0 if turn.seg_positions else None for turn in episode.turns]
    last = max((i for i, place in enumerate(found) if place is not None), default=None)
    if last is not None:
        found[last] = len(episode.turns[last].seg_positions) - 1
    return found


def final_keyframe(episode: Episode) -> int:
    """Where the last mask is decoded before propagation (SPEC 2.2): the last keyframe that a turn selected; if none
    did, the answer's; if that is unreadable, the middle spatial frame (or the middle frame).

    One rule however the episode ended: a ``<select>`` at the turn limit names a keyframe too, though no turn saw it.
    """
    read = [t for t in episode.turns if t.grounding is not None]
    chosen = [t for t in read if t.action is Action.SELECT] or read[-1:]
    if chosen and chosen[-1].grounding is not None:
        return clamp(chosen[-1].grounding, episode.num_frames).keyframe
    frames = episode.spatial_frames
    return frames[len(frames) // 2] if frames else episode.num_frames // 2
