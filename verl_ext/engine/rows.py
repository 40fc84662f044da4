"""The engine's side of packing: a batch becomes rows, each of them one micro-batch of verl's loop.

A mini-batch is dealt into rows by itself, in every pass: old log-probs, reference and update then share rows and
kernels, and the importance ratio starts at exactly 1 (rounding depends on what shares a row).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import verl.workers.engine.fsdp.transformer_impl as fsdp_impl
from tensordict import TensorDict
from torch.distributed.fsdp import FSDPModule
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine.fsdp import FSDPEngineWithLMHead

from rollout.errors import ProtocolError, WorkerError
from verl_ext.engine.pictures import batch_pictures
from verl_ext.packing.deal import Unit, deal_rows, fewest_rows, fitting_units, unit_tokens
from verl_ext.packing.dialogue import Dialogue, find_groups, read_dialogues
from verl_ext.packing.forward import Scoring
from verl_ext.packing.row import Row, lay_out
from verl_ext.packing.vision import Tower
from verl_ext.packing.work import Work, operations
from verl_ext.policy.forbidden import forbidden_mask
from verl_ext.policy.pictures import PixelValues
from verl_ext.recipe import Recipe
from verl_ext.seg.episodes import non_tensor_rows

logger = logging.getLogger(__name__)
HEAVY = ("multi_modal_inputs", "position_ids")
"""Columns that are in the rows already."""


class RowEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """verl's engine whose micro-batches are rows; with ``policy.packing: none`` it counts a pass's work only."""

    _recipe: Recipe
    _pixels: PixelValues
    _made: Iterator[Row]
    _row: Row
    _banned: torch.Tensor | None = None
    forbidden: list[int]
    """Token ids that the policy may never say."""
    work = Work(0.0, 0.0, 0.0)
    """Operations of the last batch's forward over all processes."""
    longest_row = 0
    """Tokens of the last batch's longest row over all processes, which memory depends on; 0 without rows."""

    @property
    def packing(self) -> str:
        return self._recipe.policy.packing

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool = False) -> Any:
        """Raises WorkerError when memory does not suffice: names the pass, and what to lower."""
        try:
            if self.packing == "none":
                self._count_work(data)
                return super().forward_backward_batch(data, loss_function, forward_only)
            tu.assign_non_tensor(data, use_dynamic_bsz=True)  # verl then puts outputs back into the batch's order
            # verl 0.9.1 has no hook for how a batch is divided
            with patch.object(fsdp_impl, "prepare_micro_batches", self._as_rows):
                return super().forward_backward_batch(data, loss_function, forward_only)
        except torch.OutOfMemoryError as e:
            raise WorkerError(self._out_of_memory(forward_only, str(e))) from e
        finally:
            if forward_only:
                self._give_back_gathered()

    def optimizer_step(self) -> Any:
        """Raises WorkerError when memory does not suffice: Adam's means are made in the first one."""
        try:
            return super().optimizer_step()
        except torch.OutOfMemoryError as e:
            raise WorkerError(
                f"the {get_device_name()} ran out of memory in the optimizer's step: weights, gradients and Adam's "
                "means are float32, shared by trainer.actor_processes (now "
                f"{self._recipe.trainer.actor_processes}): raise it, or train adapters with policy.lora.rank. {e}"
            ) from e

    def _give_back_gathered(self) -> None:
        """What a lone process keeps for its backward pass: there is none, and vLLM or another model runs next."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _count_work(self, data: TensorDict) -> None:
        dialogues = self._dialogues(data)
        alone = [[i] for i in range(len(dialogues))]
        self._sum_work(operations(alone, dialogues, self.model_config.hf_config, every_logit=True))

    def _sum_work(self, work: Work) -> None:
        parts = torch.tensor([work.language, work.head, work.vision], dtype=torch.float64).to(get_device_id())
        torch.distributed.all_reduce(parts, group=self.get_data_parallel_group())
        self.work = Work(*parts.tolist())

    def _dialogues(self, data: TensorDict) -> list[Dialogue]:
        token = self.model_config.hf_config.image_token_id
        return read_dialogues(data, token, non_tensor_rows, batch_pictures(data))

    def _as_rows(self, data: TensorDict, dp_group: Any = None, **_: Any) -> tuple[list[TensorDict], list[list[int]]]:
        """verl's ``prepare_micro_batches``: one micro-batch a row, and which sequences it holds."""
        config = self.model_config.hf_config
        dialogues, tower = self._dialogues(data), Tower.of(config)
        size = self._mini_batch(data)
        parts = [self._units(dialogues[k : k + size], k, tower) for k in range(0, len(dialogues), size)]
        most = self._recipe.policy.row_tokens
        counts = torch.tensor([fewest_rows(units, dialogues, most) for units in parts], device=get_device_id())
        torch.distributed.all_reduce(counts, op=torch.distributed.ReduceOp.MAX, group=dp_group)
        rows = [
            row
            for units, count in zip(parts, counts.tolist(), strict=True)
            for row in deal_rows(units, dialogues, count)
        ]
        longest = max(sum(unit_tokens(unit, dialogues) for unit in row) for row in rows)
        reached = torch.tensor(longest, device=get_device_id())
        torch.distributed.all_reduce(reached, op=torch.distributed.ReduceOp.MAX, group=dp_group)
        self.longest_row = int(reached)
        self._sum_work(operations([u for row in rows for u in row], dialogues, config))
        self._made = _ahead([partial(lay_out, row, dialogues, tower, self._pixels.of) for row in rows])
        indices = [[i for unit in row for i in unit] for row in rows]
        light = data.exclude(*HEAVY)
        return [tu.index_select_tensor_dict(light, found) for found in indices], indices

    def _mini_batch(self, data: TensorDict) -> int:
        """Sequences of this process's share of a mini-batch: what is updated at once is packed together."""
        r = self._recipe
        if "response_mask" not in data.keys():  # noqa: SIM118 - a TensorDict
            return len(data)
        return max(1, r.trainer.mini_batch_prompts * r.rollout.group_size // self.get_data_parallel_size())

    def _units(self, part: list[Dialogue], first: int, tower: Tower) -> list[Unit]:
        """The groups of a mini-batch, by index into all dialogues, of which its first is number ``first``."""
        alone = [[i] for i in range(len(part))]
        groups = find_groups(part, tower.merge) if self.packing == "group" else alone
        units = fitting_units(groups, part, self._recipe.policy.row_tokens)
        return [[first + i for i in unit] for unit in units]

    # ---- one row --------------------------------------------------------------------------------------------------

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.packing == "none":
            return super().prepare_model_inputs(micro_batch)  # type: ignore[no-any-return]
        self._row = next(self._made)
        row = self._row.to(get_device_id())
        temperature = torch.as_tensor(micro_batch["temperature"]).unique()
        if len(temperature) != 1:
            raise ProtocolError(f"one row mixes the temperatures {temperature.tolist()}; set policy.packing=none")
        if self._banned is None:
            size = self.model_config.hf_config.text_config.vocab_size
            mask = forbidden_mask(size, self.forbidden, len(self.model_config.tokenizer))
            self._banned = mask.to(torch.uint8).to(get_device_id())
        keep = not self._recipe.policy.gradient_checkpointing
        return {"row": row, "scoring": Scoring(self._banned, float(temperature), keep)}, {"row": row}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Any]:
        if self.packing == "none":
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[no-any-return]
        ids: Any = micro_batch["input_ids"]
        home = output_args["row"].home

        def as_tokens(values: torch.Tensor) -> torch.Tensor:
            """(M,) -> jagged (B, L): verl keeps a token's log-prob one place to the left; 0 where none is scored."""
            flat = values.new_zeros(ids.values().shape[0]).index_copy(0, home, values)
            return torch.nested.nested_tensor_from_jagged(flat, ids.offsets())

        out = {"log_probs": as_tokens(output.log_probs)}
        if tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False):
            out["entropy"] = as_tokens(output.entropy)
        return out

    # ---- words ----------------------------------------------------------------------------------------------------

    def say_which_way(self) -> None:
        """One line of the log of the first process: which way the passes run."""
        p = self._recipe.policy
        ways = {
            "none": f"sequences of a micro-batch of {self._recipe.trainer.micro_batch}, attention {p.attn}",
            "packed": f"rows of {p.row_tokens} tokens, every prompt once a rollout",
            "group": f"rows of {p.row_tokens} tokens, every prompt once a group",
        }
        if self.rank == 0:
            compiled = ", compiled layers" if p.compile else ""
            who = "reference" if self.engine_config.forward_only else "policy"
            # a warning, for verl's processes log nothing below one
            logger.warning(
                "policy.packing %s: the %s's passes run over %s%s", p.packing, who, ways[p.packing], compiled
            )

    def _out_of_memory(self, forward_only: bool, what: str) -> str:
        p, t = self._recipe.policy, self._recipe.trainer
        phase = "reference pass" if self.engine_config.forward_only else "log-prob pass" if forward_only else "update"
        size = f"policy.row_tokens (now {p.row_tokens})"
        if p.packing == "none":
            size = f"trainer.micro_batch (now {t.micro_batch})"
        more = "" if p.gradient_checkpointing else ", or set policy.gradient_checkpointing=true"
        where = f" in a row of {self._row.ids.shape[1]} tokens" if p.packing != "none" and hasattr(self, "_row") else ""
        return f"the {get_device_name()} ran out of memory in the {phase}{where}: lower {size}{more}. {what}"


def _ahead(makers: list[Callable[[], Row]]) -> Iterator[Row]:
    """Each one's row; the next is made while the device computes the one before.

    Pixels are made on the device, on a stream of their own: every picture's copy would else wait for the whole pass.
    """
    cuda = get_device_name() == "cuda"
    own = torch.cuda.Stream(get_device_id()) if cuda else None

    def make(maker: Callable[[], Row], user: Any) -> Row:
        if own is None:
            return maker()
        with torch.cuda.stream(own):
            row = maker()
        own.synchronize()  # this thread waits, neither the pass nor who enqueues it

        def shared(x: torch.Tensor) -> torch.Tensor:
            if not x.is_cuda:
                return x.pin_memory()
            x.record_stream(user)
            return x

        return row.map(shared)

    # a thread begins on GPU 0, where leaving the stream would open a context: torchrun's processes see all GPUs
    begin = partial(torch.cuda.set_device, get_device_id()) if cuda else None
    with ThreadPoolExecutor(1, initializer=begin) as pool:
        user = torch.cuda.current_stream() if cuda else None
        waiting: deque[Future[Row]] = deque()
        for maker in makers:
            waiting.append(pool.submit(make, maker, user))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
