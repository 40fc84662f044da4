"""The hidden state at each ``[SEG]`` that vLLM samples, kept in its workers until the reply has ended.

A dialogue that shows the policy its own masks needs them between two turns, long before the actor's log-prob pass. A
generation asks for them in its sampling parameters (`asking`); the worker then keeps, of that request alone, the
last-layer state at its first ``[SEG]`` and at its newest: `rollout.episode.seg_of_turns` names no other. The server
hands them back with the reply (`with_seg_hidden`).

How it holds: states are read behind vLLM's forward, out of its output, so graphs, chunked prefills and whatever shares
the batch do not matter; every sampled token becomes an input once, whether its keys are cached later or not; a request
that is computed again (preemption) is not looked at twice. Nothing waits for the GPU but the fetch. Memory is
``SLOTS_A_SEQUENCE`` x ``max_num_seqs`` x 2 states. Written against vLLM 0.27's runner of models like Qwen3-VL; another
one, or speculative decoding, is refused by name.

Legend: S slots, m tokens looked at in one step, d width of the language model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

KEY = "videoseg_seg_hidden"
"""In a request's ``extra_args``, and of what comes back in a reply's ``extra_fields``."""
SLOTS_A_SEQUENCE = 4
"""A reply that has ended waits for its fetch while others begin."""
NEEDED = ("execute_model", "execute_model_state", "input_batch", "input_ids", "max_num_reqs", "speculative_config")
"""What of vLLM's runner is read."""

Found = tuple[int, list[int], bytes]
"""How many ``[SEG]`` a reply has, where the first and the newest stand among all its tokens, and (2, d) float32."""


def asking(key: str, token: int) -> dict[str, Any]:
    """Sampling parameters of one generation; ``key`` is its own, ``token`` the id of ``[SEG]``."""
    return {"extra_args": {KEY: {"key": key, "token": token}}}


def asked_in(sampling: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What `asking` put there, if it did."""
    found: Mapping[str, Any] | None = (sampling.get("extra_args") or {}).get(KEY)
    return found


@dataclass
class _Asked:
    slot: int
    token: int
    looked_at: int
    """Tokens of the request, prompt included, that need no look any more."""
    request: str


class SegHidden:
    """Of one vLLM worker; installed behind its model runner's forward."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._capacity = SLOTS_A_SEQUENCE * int(getattr(runner, "max_num_reqs", 0))
        self._free = list(range(self._capacity))
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._running: dict[str, str] = {}
        """vLLM's request id -> the key it was asked with."""
        self._hidden: torch.Tensor | None = None  # (S, 2, d)
        self._places: torch.Tensor | None = None  # (S, 2) int64
        self._count: torch.Tensor | None = None  # (S,) int64
        forward = runner.execute_model

        @wraps(forward)
        def execute_model(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            out = forward(scheduled, *args, **kwargs)
            self._after(scheduled)
            return out

        runner.execute_model = execute_model

    def __len__(self) -> int:
        """Requests whose states are held."""
        return len(self._asked)

    def take(self, key: str) -> Found | None:
        """The states asked for with ``key``, which are gone then; None where they are not held."""
        asked = self._asked.get(key)
        if asked is None or self._hidden is None or self._places is None or self._count is None:
            return None
        slot = asked.slot
        count, places = int(self._count[slot]), self._places[slot].tolist()
        states = self._hidden[slot].float().cpu().numpy().tobytes()
        self.drop(key)
        return count, places, states

    def drop(self, key: str) -> None:
        """Forget what was asked for with ``key``, if it is still held."""
        asked = self._asked.pop(key, None)
        if asked is not None:
            self._running.pop(asked.request, None)
            self._free.append(asked.slot)

    def clear(self) -> None:
        """New weights: no state of the old ones may be drawn."""
        for key in list(self._asked):
            self.drop(key)

    @torch.inference_mode()
    def _after(self, scheduled: Any) -> None:
        for request in scheduled.finished_req_ids:
            self._running.pop(request, None)
        for new in scheduled.scheduled_new_reqs:
            wanted = asked_in({"extra_args": getattr(new.sampling_params, "extra_args", None)})
            if wanted is not None and wanted["key"] not in self._asked:
                self._begin(new.req_id, wanted, len(new.prompt_token_ids))
        if self._running and (state := self._runner.execute_model_state) is not None:
            self._look(scheduled.num_scheduled_tokens, state.hidden_states)

    def _begin(self, request: str, wanted: Mapping[str, Any], prompt_length: int) -> None:
        self._check_runner()
        if not self._free:  # replies that ended and that nobody fetched: an aborted dialogue's
            self.drop(next(key for key, asked in self._asked.items() if asked.request not in self._running))
        slot = self._free.pop()
        self._asked[wanted["key"]] = _Asked(slot, int(wanted["token"]), prompt_length, request)
        self._running[request] = wanted["key"]
        if self._count is not None:
            self._count[slot] = 0

    def _check_runner(self) -> None:
        missing = [name for name in NEEDED if not hasattr(self._runner, name)]
        if missing or self._runner.speculative_config is not None:
            why = f"lacks {', '.join(missing)}" if missing else "decodes speculatively"
            raise RuntimeError(
                f"vLLM's {type(self._runner).__name__} {why}, no [SEG] state can be kept for a verification turn; "
                "unset VLLM_USE_V2_MODEL_RUNNER and any speculative decoding, or take an environment without that turn"
            )

    def _look(self, scheduled: Mapping[str, int], hidden: torch.Tensor) -> None:
        """hidden: (rows, d), the requests' scheduled tokens one after another, in the batch's order."""
        batch = self._runner.input_batch
        rounds: list[list[tuple[int, int, int, int]]] = []  # in each, a slot occurs once
        start = 0
        for i, request in enumerate(batch.req_ids):
            count = scheduled[request]
            if (key := self._running.get(request)) is not None:
                asked, begin = self._asked[key], int(batch.num_computed_tokens_cpu[i])
                for n, place in enumerate(range(max(begin, asked.looked_at), begin + count)):
                    if n == len(rounds):
                        rounds.append([])
                    rounds[n].append((start + place - begin, asked.slot, place, asked.token))
                asked.looked_at = max(asked.looked_at, begin + count)
            start += count
        for tokens in rounds:
            self._keep(hidden, tokens)

    def _keep(self, hidden: torch.Tensor, tokens: Sequence[tuple[int, int, int, int]]) -> None:
        """tokens: m x (row, slot, place, id of ``[SEG]``). Which of them are ``[SEG]`` the GPU alone knows."""
        if self._hidden is None or self._places is None or self._count is None:
            self._hidden = hidden.new_zeros(self._capacity, 2, hidden.shape[-1])
            self._places = torch.full((self._capacity, 2), -1, dtype=torch.long, device=hidden.device)
            self._count = torch.zeros(self._capacity, dtype=torch.long, device=hidden.device)
        row, slot, place, token = torch.tensor(tokens).to(hidden.device, non_blocking=True).unbind(1)
        said = self._runner.input_ids.gpu[row] == token
        for which, here in ((0, said & (self._count[slot] == 0)), (1, said)):
            self._hidden[slot, which] = torch.where(here[:, None], hidden[row], self._hidden[slot, which])
            self._places[slot, which] = torch.where(here, place, self._places[slot, which])
        self._count[slot] += said


_dropping: set[asyncio.Future[Any]] = set()


async def with_seg_hidden(reply: Awaitable[Any], engine: Any, asked: Mapping[str, Any]) -> Any:
    """verl's reply, its ``extra_fields`` with the `Found` of its ``[SEG]`` tokens where it has any.

    A reply without any, one that was aborted and one that raised leave nothing in the workers.
    """
    taken = False
    try:
        out = await reply
        if asked["token"] in out.token_ids:
            taken = True
            found = await engine.collective_rpc("take_seg_hidden", args=(asked["key"],))
            out.extra_fields[KEY] = next((f for f in found if f is not None), None)
        return out
    finally:
        if not taken:
            dropping = asyncio.ensure_future(engine.collective_rpc("drop_seg_hidden", args=(asked["key"],)))
            _dropping.add(dropping)
            dropping.add_done_callback(_dropping.discard)
