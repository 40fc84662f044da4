"""verl's batch of single sequences, dealt out anew as whole groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transfer_queue as tq
from transfer_queue.metadata import KVBatchMeta

from verl_ext.reinforce.regroup import regroup

IMAGE = 9
PROMPTS = {"long": 40, "a": 4, "b": 4, "c": 4}
"""Tokens by group; two rollouts each, and two padding copies."""
KEYS = ("a_0_0", "long_0_0", "b_0_0", "c_0_0", "pad_0_0", "long_1_0", "c_1_0", "a_1_0", "b_1_0", "pad_1_0")


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> KVBatchMeta:
    tags = [{"is_padding": key.startswith("pad")} for key in KEYS]

    def columns(keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, Any]:
        assert partition_id == "train" and select_fields == ["prompts", "responses"]
        lengths = [PROMPTS.get(key.split("_")[0], 1) for key in keys]
        prompts = [torch.full((n,), IMAGE if n > 4 else 1) for n in lengths]
        return {
            "prompts": torch.nested.as_nested_tensor(prompts, layout=torch.jagged),
            "responses": prompts_of(1, keys),
        }

    monkeypatch.setattr(tq, "kv_batch_get", columns)
    return KVBatchMeta(keys=list(KEYS), tags=tags, partition_id="train")


def prompts_of(tokens: int, keys: list[str]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.ones(tokens) for _ in keys], layout=torch.jagged)


def test_each_share_holds_whole_groups_and_the_heaviest_is_alone(batch: KVBatchMeta) -> None:
    regroup(batch, 2, IMAGE)
    assert sorted(batch.keys) == sorted(KEYS)
    shares = [{key.split("_")[0] for key in batch.keys[i : i + 5]} for i in (0, 5)]
    assert shares[0] & shares[1] == {"pad"}
    lengths = [sum(PROMPTS.get(name, 0) for name in share) for share in shares]
    assert sorted(lengths) == [8, 44], "the long group beside one other, not beside two"
    assert all(tag["is_padding"] == key.startswith("pad") for key, tag in zip(batch.keys, batch.tags, strict=True))


@pytest.mark.parametrize("cells", [1, 3])
def test_one_process_or_shares_that_do_not_divide_change_nothing(batch: KVBatchMeta, cells: int) -> None:
    regroup(batch, cells, IMAGE)
    assert batch.keys == list(KEYS)
