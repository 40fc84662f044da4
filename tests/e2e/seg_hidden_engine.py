"""Run as a process of its own (vLLM patches much at import): an engine with our worker extension, requests that fall
upon each other, and the policy's own forward over what they said. Prints one line of JSON.

The cache is too small for all requests at once and prompts come in parts, so that vLLM preempts and chunks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from eval.inference.seg_states import collapse_runs, pixels_of
from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import make_environment
from rollout.types import Sample
from rollout.vllm_env import executor_of, multimodal_limits
from tests.verl_ext.batches import SELECT
from verl_ext.inference.seg_hidden import KEY, SLOTS_A_SEQUENCE, asked_in, asking, with_seg_hidden

SETTINGS = {
    "temporal_frames": 4,
    "spatial_frames": 2,
    "frames_per_turn": 2,
    "max_turns": 2,
    "temporal_budget": 4,
    "spatial_budget": 12,
    "keyframe_budget": 12,
    "prompts": "brief",
}
LENGTH, SEQUENCES, BLOCK, BLOCKS, CHUNK = 200, 2, 32, 24, 64
ROOM = 640


class Preemptions:
    """vLLM's interface of a statistics logger."""

    count = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, scheduler_stats: Any, iteration_stats: Any, **kwargs: Any) -> None:
        Preemptions.count += 0 if iteration_stats is None else iteration_stats.num_preempted_reqs

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@dataclass
class Talk:
    """A dialogue whose replies are noise with some ``[SEG]`` in it."""

    conversation: Conversation
    environment: Any
    found: list[Any] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)


class Engine:
    def __init__(self, folder: str) -> None:
        from transformers import AutoProcessor
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.processor = AutoProcessor.from_pretrained(folder)
        self.chat = ChatFormat.from_processor(self.processor)
        args = AsyncEngineArgs(
            model=folder,
            dtype="float32",
            max_model_len=ROOM,
            max_num_seqs=SEQUENCES,
            max_num_batched_tokens=CHUNK,
            enable_chunked_prefill=True,
            block_size=BLOCK,
            num_gpu_blocks_override=BLOCKS,
            distributed_executor_backend=executor_of("cpu", 1),
            enforce_eager=True,
            limit_mm_per_prompt=multimodal_limits(12),
            worker_extension_cls="verl_ext.inference.vllm_worker.WorkerExtension",
        )
        self.llm = AsyncLLM.from_engine_args(args, stat_loggers=[Preemptions])  # type: ignore[list-item]
        words = self.processor.tokenizer.encode("the red left one moves", add_special_tokens=False)
        self.allowed = [self.chat.seg, *words]
        self.count = 0
        self.speaks = asyncio.Event()
        """Set by every token of a reply."""

    def begin(self, sample: Sample) -> Talk:
        environment = make_environment("keyframe_exploration", sample, SETTINGS, self.chat.factor)
        conversation = Conversation(self.processor.tokenizer, self.chat, sample.clip, ROOM)
        assert conversation.append_user(environment.begin())  # type: ignore[arg-type]
        return Talk(conversation, environment)

    async def reply(self, talk: Talk, key: str | None, tokens: int = LENGTH) -> Any:
        """One turn as verl's server makes it."""
        from vllm import SamplingParams, TokensPrompt

        self.count += 1
        number = str(self.count)
        sampling: dict[str, Any] = {"temperature": 1.0, "allowed_token_ids": self.allowed}
        sampling |= {} if key is None else asking(key, self.chat.seg or 0)
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, **sampling)
        ids = collapse_runs(talk.conversation.token_ids, self.chat.image_pad)
        prompt = TokensPrompt(prompt_token_ids=ids, multi_modal_data={"image": talk.conversation.images()})

        async def made() -> Any:
            out: Any = None
            async for found in self.llm.generate(prompt, params, request_id=number):
                out = found
                self.speaks.set()
            extra = {"cached": out.num_cached_tokens}
            return SimpleNamespace(token_ids=list(out.outputs[0].token_ids), extra_fields=extra)

        asked = asked_in(sampling)
        return await (made() if asked is None else with_seg_hidden(made(), self.llm, asked))

    async def turn(self, talk: Talk, key: str) -> None:
        out = await self.reply(talk, key)
        said = talk.conversation.append_assistant(out.token_ids)
        last = len(talk.conversation.token_ids) - 2  # the last sampled; behind it is a closing token of ours
        # the last token of a cut reply is never an input
        talk.positions.append([p for p in said.seg_positions if p != last])
        talk.found.append(out.extra_fields.get(KEY))
        talk.cached.append(out.extra_fields["cached"])

    async def held(self, key: str) -> bool:
        (found,) = await self.llm.collective_rpc("take_seg_hidden", args=(key,))
        return found is not None


async def talk_all(engine: Engine, samples: list[Sample]) -> tuple[list[Talk], dict[str, Any]]:
    talks = [engine.begin(sample) for sample in samples]
    unasked, bystander = engine.begin(samples[0]), asyncio.Event()

    async def others() -> None:
        await engine.reply(unasked, None)
        bystander.set()

    async def dialogue(n: int, talk: Talk) -> None:
        await engine.turn(talk, f"{n}/0")
        assert talk.conversation.append_user(talk.environment.step(SELECT))
        await engine.turn(talk, f"{n}/1")

    await asyncio.gather(others(), *(dialogue(n, talk) for n, talk in enumerate(talks)))
    facts: dict[str, Any] = {"preemptions": Preemptions.count, "bystander": bystander.is_set()}
    facts["taken_once"] = [await engine.held(f"{n}/{turn}") for n in range(len(talks)) for turn in (0, 1)]

    engine.speaks.clear()
    aborted = asyncio.ensure_future(engine.reply(engine.begin(samples[0]), "aborted"))
    await engine.speaks.wait()
    aborted.cancel()
    await asyncio.gather(aborted, return_exceptions=True)
    await asyncio.sleep(0.3)
    facts["aborted"] = (aborted.cancelled(), await engine.held("aborted"))

    talk, capacity = engine.begin(samples[0]), SLOTS_A_SEQUENCE * SEQUENCES
    llm, engine.llm = engine.llm, _NobodyFetches(engine.llm)
    for n in range(capacity + 1):
        await engine.reply(talk, f"left/{n}", tokens=2)
    engine.llm = llm
    facts["left"] = [await engine.held(f"left/{n}") for n in range(capacity + 1)]
    await engine.reply(talk, "before", tokens=2)
    await llm.collective_rpc("load_folder", args=(sys.argv[1],))
    facts["after_new_weights"] = await engine.held("before")
    return talks, facts


class _NobodyFetches:
    """An engine whose server died between a reply and its fetch."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._llm.generate(*args, **kwargs)

    async def collective_rpc(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [None]


def largest_difference(model: Any, engine: Engine, talk: Talk) -> tuple[float, float]:
    """(relative, to the nearest other token's state): how far vLLM's states are from the policy's own forward."""
    conversation = talk.conversation
    pixels = pixels_of(engine.processor, conversation)
    ids = torch.tensor([conversation.token_ids])
    with torch.inference_mode():
        hidden = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.tensor(conversation.position_ids())[:, None],
            pixel_values=pixels["pixel_values"],
            image_grid_thw=pixels["image_grid_thw"],
            use_cache=False,
        ).last_hidden_state[0]
    worst, nearest = 0.0, float("inf")
    for positions, found in zip(talk.positions, talk.found, strict=True):
        count, places, states = found
        assert (count, list(places)) == (len(positions), [positions[0], positions[-1]]), (found[:2], positions)
        kept = torch.from_numpy(np.frombuffer(states, dtype=np.float32).reshape(2, -1).copy())
        for place, state in zip(places, kept, strict=True):
            distance = (hidden - state).norm(dim=-1) / hidden[place].norm()
            worst = max(worst, float(distance[place]))
            distance[place] = float("inf")
            nearest = min(nearest, float(distance.min()))
    return worst, nearest


def main() -> None:
    from verl_ext.policy.checkpoint import load_policy

    folder, rows = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    engine = Engine(folder)
    banned = (len(engine.processor.tokenizer), sorted(engine.chat.forbidden))

    async def all_of_it() -> tuple[list[Talk], dict[str, Any]]:
        await engine.llm.collective_rpc("monkey_patch_model", args=banned)
        return await talk_all(engine, [Sample.from_dict(row) for row in rows])

    try:
        talks, facts = asyncio.run(all_of_it())
    finally:
        engine.llm.shutdown()
    model = load_policy(folder)
    facts["differences"] = [largest_difference(model, engine, talk) for talk in talks]
    facts["tokens"] = [[len(positions) for positions in talk.positions] for talk in talks]
    facts["cached"] = [talk.cached for talk in talks]
    print("FOUND" + json.dumps(facts))


if __name__ == "__main__":
    main()
