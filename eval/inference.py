"""Greedy dialogues over vLLM, many clips at once, and the ``[SEG]`` states of the finished ones.

One :class:`PolicyWorker` is a Ray actor with a vLLM engine and, for the states, the policy itself. It runs the very
environments that training runs; images are loaded inside it and never travel.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import make_environment
from rollout.episode import Generated, roll_out
from rollout.types import Episode, Sample, StopReason

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class InferenceSettings:
    """How dialogues are decoded. Token limits as in the recipe."""

    environment: str
    environment_settings: Mapping[str, Any]
    max_tokens: int
    max_prompt_tokens: int
    max_response_tokens: int
    turn_length: int
    images: int
    """The most images in one dialogue."""
    dtype: str = "bfloat16"
    concurrency: int = 32
    """Dialogues in flight on one worker."""
    gpu_memory_utilization: float = 0.6
    enforce_eager: bool = False
    tensor_parallel: int = 1
    sam2_preset: str = "sam2.1_hiera_l"
    """Which SAM 2 ``sam2_checkpoint`` is."""
    sam2_checkpoint: str | None = None
    """SAM 2 weights instead of the policy's own; box policies have none."""


@dataclass(frozen=True)
class Dialogue:
    """A finished episode with what its masks need."""

    episode: Episode
    states: list[np.ndarray[Any, Any] | None]
    """Per turn (C,) float32, or None without ``[SEG]``."""
    tokens: int
    """Tokens that the policy wrote."""


class PolicyWorker:
    """One engine; made a Ray actor by :mod:`eval.run`. ``folder`` is the policy that it starts with."""

    def __init__(self, folder: str, settings: InferenceSettings, device: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        import torch

        self.settings, self.device = settings, device
        if device == "cpu":
            torch.set_num_threads(1)
        self._engine: Any = None
        self._requests = 0
        self._read_folder(folder)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._forward = asyncio.Lock()

    def _read_folder(self, folder: str) -> None:
        import torch
        from transformers import AutoProcessor

        from verl_ext.policy.checkpoint import has_head, load_policy

        self.folder = folder
        self.processor = AutoProcessor.from_pretrained(folder)
        self.chat = ChatFormat.from_processor(self.processor)
        self.model = None
        if has_head(folder):
            self.model = load_policy(folder, getattr(torch, self.settings.dtype), self.device)

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
            max_num_batched_tokens=max(s.max_tokens, 8192),
            max_num_seqs=s.concurrency,
            tensor_parallel_size=s.tensor_parallel,
            gpu_memory_utilization=s.gpu_memory_utilization,
            enforce_eager=s.enforce_eager or self.device == "cpu",
            limit_mm_per_prompt={"image": s.images, "video": 0},
            worker_extension_cls="verl_ext.vllm_worker.WorkerExtension",
            disable_log_stats=True,
        )
        self._engine = AsyncLLM.from_engine_args(args)
        vocabulary = len(self.processor.tokenizer)
        banned = sorted(self.chat.forbidden)
        await self._engine.collective_rpc("monkey_patch_model", args=(vocabulary, banned))

    async def use_policy(self, folder: str) -> None:
        """Go on with another policy of the same architecture and tokenizer."""
        self._read_folder(folder)
        await self.start()

    async def run(self, sample: dict[str, Any]) -> Dialogue:
        """One greedy dialogue and its states."""
        async with self._slots:
            return await self._run(Sample.from_dict(sample))

    async def _run(self, sample: Sample) -> Dialogue:
        s = self.settings
        environment = make_environment(s.environment, sample, s.environment_settings, self.chat.factor)
        conversation = Conversation(
            self.processor.tokenizer,
            self.chat,
            sample.clip,
            s.max_tokens,
            max_prompt_tokens=s.max_prompt_tokens,
            max_response_tokens=s.max_response_tokens,
        )
        episode = await roll_out(environment, conversation, self._generate, {"temperature": 0.0}, s.turn_length)
        tokens = sum(conversation.loss_mask)
        states: list[np.ndarray[Any, Any] | None] = [None] * len(episode.turns)
        if self.model is not None and episode.stop is not StopReason.REFUSED_CLIP:
            async with self._forward:
                states = await asyncio.to_thread(self._states, conversation, episode)
        return Dialogue(episode, states, tokens)

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
        outputs = [o async for o in self._engine.generate(prompt, params, request_id=str(self._requests))]
        out = outputs[-1].outputs[0]
        return Generated(list(out.token_ids), None, out.finish_reason or "stop")

    def _states(self, conversation: Conversation, episode: Episode) -> list[np.ndarray[Any, Any] | None]:
        """Hidden states at the first ``[SEG]`` of each turn, projected; one forward over the whole dialogue."""
        import torch

        wanted = [t.seg_positions[0] if t.seg_positions else None for t in episode.turns]
        positions = [p for p in wanted if p is not None]
        if not positions:
            return [None] * len(wanted)
        ids = torch.tensor([conversation.token_ids[: max(positions) + 1]])
        images = conversation.images()
        pads = int((ids == self.chat.image_pad).sum())
        pixels = self.processor.image_processor(images=images, return_tensors="pt")
        keep = images_covering(conversation, pads)
        grid = pixels["image_grid_thw"][:keep]
        rows = int(grid.prod(dim=1).sum())
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[0, positions] = True
        with torch.inference_mode():
            assert self.model is not None
            out = self.model(
                input_ids=ids.to(self.device),
                attention_mask=torch.ones_like(ids).to(self.device),
                position_ids=torch.tensor(conversation.position_ids())[:, None, : ids.shape[1]].to(self.device),
                pixel_values=pixels["pixel_values"][:rows].to(self.device, self.model.dtype),
                image_grid_thw=grid.to(self.device),
                seg_mask=mask.to(self.device),
                logits_to_keep=1,
                use_cache=False,
            )
        found = iter(out.seg_states.float().cpu().numpy())
        return [None if p is None else next(found) for p in wanted]


def collapse_runs(token_ids: Sequence[int], pad: int) -> list[int]:
    """One placeholder an image, as vLLM wants it: it expands them again itself."""
    return [t for i, t in enumerate(token_ids) if t != pad or i == 0 or token_ids[i - 1] != pad]


def images_covering(conversation: Conversation, pads: int) -> int:
    """How many of the conversation's images the first ``pads`` placeholders belong to."""
    total = 0
    for n, (t, h, w) in enumerate(conversation.grids):
        if total >= pads:
            return n
        total += t * h * w // conversation.chat.merge**2
    return len(conversation.grids)


def cpu_environment(kv_cache_gib: float = 1.0) -> dict[str, str]:
    """Environment variables under which vLLM-CPU shares cores with others."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_ext.plugin",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }

