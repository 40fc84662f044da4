"""verl's agent loop as a thin adapter: an environment, a conversation and ``server_manager.generate``.

All of the dialogue's logic is in ``rollout``; evaluation runs the very same code over its own vLLM engine.
"""

from __future__ import annotations

import asyncio
import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any
from uuid import uuid4

from PIL.Image import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from rewards.pool.desk import find_desk
from rewards.pool.drawing import drawer, no_states
from rewards.scoring import Scoring
from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import answers_of, make_environment, verifies
from rollout.episode import Draw, Generated, roll_out
from rollout.errors import DataError
from rollout.messages import FramePart
from rollout.types import Clip, Episode, Sample, StopReason
from verl_ext.inference.failures import remembered
from verl_ext.inference.judging import KEY as JUDGED
from verl_ext.inference.judging import judged
from verl_ext.inference.seg_hidden import asking
from verl_ext.inference.traffic import KEY, Traffic
from verl_ext.inference.turn_states import DRAWN_STATE, TurnStates
from verl_ext.policy.pictures import keep_pictures, picture_inputs, process_store
from verl_ext.recipe.batch_checks import scores_as_they_end
from verl_ext.recipe.context import RECIPE_ENV, active_recipe
from verl_ext.recipe.rollout_settings import conversation_limits, environment_of
from verl_ext.scoring.rollouts import recipe_scoring, scoring_of


def held_out_seed(seed: int, sample: str, draw: int, generation: int) -> int:
    """The seed of one generation of a held-out dialogue: the same at every evaluation of a run.

    Common random numbers: policies are compared by the same draws on the same prompts, which takes out of the
    difference most of what is chance. A vLLM seed, 0 .. 2^31 - 1; dialogues and generations have their own.
    """
    return zlib.crc32(f"{seed}/{sample}/{draw}/{generation}".encode()) & 0x7FFFFFFF


def _draw(name: str, settings: Mapping[str, Any], sample: Sample, states: TurnStates | None) -> Draw | None:
    """For an environment that shows the policy its own masks: the trainer's pool draws them."""
    if not verifies(name):
        return None
    desk = find_desk()
    return drawer(scoring_of(name, settings, {}), sample, desk.ask.remote, states or no_states)


@functools.lru_cache(maxsize=1)
def _scoring(resolved: str) -> Scoring:
    """That of the recipe in the file ``resolved``, the active one; remembers ground truth."""
    return recipe_scoring(active_recipe())


def _plain(episode: Episode) -> dict[str, Any]:
    """As it travels; see `verl_ext.scoring.rollouts.episode_from_dict`."""
    found = asdict(episode) | {"stop": episode.stop.value}
    del found["verdict"]
    return found if episode.verdict is None else found | {"verdict": episode.verdict.value}


class VideosegAgentLoop(AgentLoopBase):  # type: ignore[misc]
    """One rollout. Named in ``rollout.agent.agent_loop_config_path``."""

    @remembered
    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """``row`` is a row of :class:`verl_ext.reinforce.dataset.RLDataset`, and the trainer's ``global_steps``.

        Raises:
            DataError: a frame cannot be read; names clip, frame and file. verl logs it and goes on without it.
        """
        recipe = active_recipe()
        keep_pictures(recipe.policy.pictures_gib)
        sample = Sample.from_dict(row["sample"])
        validate = bool(row.get("held_out"))
        chat = ChatFormat.from_processor(self.processor)
        name, settings = environment_of(recipe, evaluation=validate)
        environment = make_environment(name, sample, settings, chat.factor)
        traffic = Traffic()

        def read(clip: Clip, parts: Sequence[FramePart]) -> list[Image]:
            traffic.pictures += len(parts)
            with traffic.timed("picture_seconds"):
                return process_store().of_clip(clip, parts)

        conversation = Conversation(self.tokenizer, chat, sample.clip, **conversation_limits(recipe), read=read)
        if row.get("greedy"):
            sampling_params = {**sampling_params, "temperature": 0.0, "top_p": 1.0, "top_k": -1}
        draw = int(row["session_id"]) if validate and not row.get("greedy") else None
        request_id = uuid4().hex  # one a dialogue: its later turns go to the replica that has its images
        generations = count()
        versions: list[int] = []
        seg = chat.seg if verifies(name) and answers_of(name) != "boxes" else None
        states = None if seg is None else TurnStates()

        async def generate(
            prompt_token_ids: list[int],
            images: list[Image],
            max_tokens: int,
            stop_token_ids: list[int],
            sampling: Mapping[str, Any],
        ) -> Generated:
            if draw is not None:
                sampling = {**sampling, "seed": held_out_seed(recipe.seed, sample.id, draw, next(generations))}
            if seg is not None:
                sampling = {**sampling, **asking(uuid4().hex, seg)}
            with traffic.timed("generate_seconds"):
                out = await self.server_manager.generate(
                    request_id=request_id,
                    prompt_ids=prompt_token_ids,
                    sampling_params={**sampling, "max_tokens": max_tokens, "stop_token_ids": stop_token_ids},
                    image_data=images,
                )
            if states is not None:
                states.heard(out.extra_fields)
            traffic.answered(len(prompt_token_ids), out.extra_fields.get("num_cached_tokens"))
            known = (out.extra_fields.get(key) for key in ("min_global_steps", "max_global_steps"))
            versions.extend(version for version in known if version is not None)
            return Generated(list(out.token_ids), out.log_probs, out.stop_reason or "completed")

        with traffic.timed("seconds"):
            length, masks = recipe.rollout.turn_length, _draw(name, settings, sample, states)
            episode = await roll_out(environment, conversation, generate, sampling_params, length, masks)
        if episode.stop is StopReason.REFUSED_CLIP:
            await asyncio.to_thread(conversation.images)  # says which frame it was
            raise DataError(f"{sample.id}: the clip has {sample.clip.num_frames} frames, there is nothing to show")
        scored = (
            {}
            if validate or not scores_as_they_end(recipe)
            else {JUDGED: await judged(_scoring(os.environ[RECIPE_ENV]), sample, episode)}
        )
        prompt, response, mask = conversation.prompt_ids, conversation.response_ids, conversation.response_mask
        log_probs = conversation.response_log_probs
        if not response:  # the first message does not fit: verl needs one token, which no loss ever sees
            prompt, response, mask, log_probs = [chat.im_end], [chat.im_end], [0], [0.0]
        # weights of version s - 1 roll out for step s; verl counts with these numbers and takes no None
        versions = versions or [max(int(row["global_steps"]) - 1, 0)]
        extra: dict[str, Any] = {
            "min_global_steps": min(versions),
            "max_global_steps": max(versions),
            "episode": _plain(episode),
            "picture_inputs": picture_inputs(conversation.frames if len(prompt) > 1 else [], chat),
            KEY: traffic.as_dict(),
            **scored,
            "turn_scores": [],
            "tool_rewards": [],
        }
        if states is not None and states.drawn is not None:
            extra[DRAWN_STATE] = states.drawn
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=response,
            response_mask=mask,
            response_logprobs=log_probs,
            multi_modal_data={},  # LoopWorker takes the references above
            reward_score=0.0,  # the trainer puts it there
            num_turns=2 * len(episode.turns),
            metrics=AgentLoopMetrics(generate_sequences=traffic.generate_seconds, num_preempted=-1),
            extra_fields=extra,
        )
