"""Micro-batches as verl carries them, from dialogues on the tiny data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

SELECT = (
    '<think>Step 1: it moves. Step 2: it is red. Step 3: the left one. Action: look</think><select><VTG>{"start": 2, '
    '"end": 8, "keyframe": 5}</VTG> <RefSeg> [SEG] </RefSeg></select>'
)
ANSWER = SELECT.replace("select>", "answer>").replace("look", "confirmed")


def jagged(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def supervised_batch(dataset: Any, rows: Sequence[int], micro_batch: int = 2) -> Any:
    """What verl's SFT trainer hands to its worker."""
    from tensordict.tensorclass import NonTensorData
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator

    data = SFTTensorCollator(DatasetPadMode.NO_PADDING)([dataset[i] for i in rows])
    settings = {
        "use_remove_padding": False,
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": micro_batch,
        "temperature": 1.0,
        "global_batch_size": len(rows),
        "pad_mode": DatasetPadMode.NO_PADDING,
        "update_lr_scheduler": True,
        "global_token_num": NonTensorData([1] * len(rows)),
    }
    return tu.get_tensordict(tensor_dict=data, non_tensor_dict=settings)


def as_rollouts(batch: Any, prompt_lengths: Sequence[int]) -> Any:
    """The same sequences as reinforcement carries them: episodes in ``extra_fields``, prompt and response apart."""
    from tensordict.tensorclass import NonTensorData

    from verl_ext.seg.episodes import non_tensor_rows

    episodes = non_tensor_rows(batch, "episode")
    out = batch.exclude("episode")
    out["extra_fields"] = torch.stack([NonTensorData({"episode": e}) for e in episodes])
    ids, masks = batch["input_ids"].unbind(), batch["loss_mask"].unbind()
    out["prompts"] = jagged([x[:n] for x, n in zip(ids, prompt_lengths, strict=True)])
    out["responses"] = jagged([x[n:] for x, n in zip(ids, prompt_lengths, strict=True)])
    out["response_mask"] = jagged([m[n:] for m, n in zip(masks, prompt_lengths, strict=True)])
    return out
