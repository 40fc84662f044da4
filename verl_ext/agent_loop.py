"""verl's agent loop as a thin adapter: an environment, a conversation and ``server_manager.generate``.

All of the dialogue's logic is in ``rollout``; evaluation runs the very same code over its own vLLM engine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from PIL.Image import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import make_environment
from rollout.episode import Generated, roll_out
from rollout.types import Sample, StopReason
from verl_ext.context import active_recipe
from verl_ext.rollout_settings import conversation_limits, environment_of


class VideosegAgentLoop(AgentLoopBase):  # type: ignore[misc]
    """One rollout. Named in ``rollout.agent.agent_loop_config_path``."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """``row`` is a row of :class:`verl_ext.rl_dataset.RLDataset`."""
        recipe = active_recipe()
        sample = Sample.from_dict(row["sample"])
        validate = bool(row.get("held_out"))
        chat = ChatFormat.from_processor(self.processor)
        name, settings = environment_of(recipe, evaluation=validate)
        environment = make_environment(name, sample, settings, chat.factor)
        conversation = Conversation(self.tokenizer, chat, sample.clip, **conversation_limits(recipe))
        if row.get("greedy"):
            sampling_params = {**sampling_params, "temperature": 0.0, "top_p": 1.0, "top_k": -1}
        engine_fields: dict[str, Any] = {}
        seconds = 0.0

        async def generate(
            prompt_token_ids: list[int],
            images: list[Image],
            max_tokens: int,
            stop_token_ids: list[int],
            sampling: Mapping[str, Any],
        ) -> Generated:
            nonlocal seconds
            began = time.perf_counter()
            out = await self.server_manager.generate(
                request_id=uuid4().hex,
                prompt_ids=prompt_token_ids,
                sampling_params={**sampling, "max_tokens": max_tokens, "stop_token_ids": stop_token_ids},
                image_data=images,
            )
            seconds += time.perf_counter() - began
            if not engine_fields:
                engine_fields.update(out.extra_fields)
            else:
                engine_fields["max_global_steps"] = out.extra_fields.get("max_global_steps")
            finish = "length" if len(out.token_ids) >= max_tokens and _cut(out.token_ids, stop_token_ids) else "stop"
            return Generated(list(out.token_ids), out.log_probs, finish)

        episode = await roll_out(environment, conversation, generate, sampling_params, recipe.rollout.turn_length)
        prompt, response, mask = conversation.prompt_ids, conversation.response_ids, conversation.response_mask
        log_probs = conversation.response_log_probs
        if not response or episode.stop is StopReason.REFUSED_CLIP:
            # no reply, or frames that cannot be read: verl needs one token, which no loss ever sees
            prompt, response, mask, log_probs = [chat.im_end], [chat.im_end], [0], [0.0]
            for turn in episode.turns:
                turn.seg_positions = []
        extra: dict[str, Any] = {
            "min_global_steps": engine_fields.get("min_global_steps"),
            "max_global_steps": engine_fields.get("max_global_steps"),
            "episode": asdict(episode) | {"stop": episode.stop.value},
            "turn_scores": [],
            "tool_rewards": [],
        }
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=response,
            response_mask=mask,
            response_logprobs=log_probs,
            multi_modal_data={"images": conversation.images()} if len(prompt) > 1 else {},
            reward_score=0.0,  # the segmenter pool scores the whole batch once its [SEG] states are known
            num_turns=2 * len(episode.turns),
            metrics=AgentLoopMetrics(generate_sequences=seconds, num_preempted=-1),
            extra_fields=extra,
        )


def _cut(token_ids: list[int], stop_token_ids: list[int]) -> bool:
    return not token_ids or token_ids[-1] not in stop_token_ids
