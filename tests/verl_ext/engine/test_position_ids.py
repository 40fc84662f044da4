"""verl 0.9.1's layout of rotary positions when all sequences are equally long, and the cure."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from verl_ext.engine.position_ids import repair_position_ids


def positions(lengths: list[int]) -> list[torch.Tensor]:
    return [torch.arange(4 * n).view(4, n) + 100 * i for i, n in enumerate(lengths)]


def batch(rows: list[torch.Tensor]) -> TensorDict:
    """As verl's ``list_of_dict_to_tensordict`` and TransferQueue make it."""
    nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return TensorDict({"position_ids": nested}, batch_size=len(rows))


def rows_of(data: TensorDict) -> list[torch.Tensor]:
    values, offsets = data["position_ids"].values(), data["position_ids"].offsets()
    return [values[:, a:b] for a, b in pairwise(offsets)]


def test_upstream_still_gets_equal_lengths_wrong() -> None:
    """Fails once verl or torch is cured: then remove ``verl_ext.engine.position_ids``."""
    data = batch(positions([5, 5]))
    tu.maybe_fix_3d_position_ids(data)
    assert data["position_ids"].values().shape == (8, 5)  # sound would be (4, 10)
    assert data["position_ids"].offsets().tolist() == [0, 4, 8]  # sound would be 0, 5, 10


@pytest.mark.parametrize("lengths", [[5, 5], [7, 7, 7], [4, 4], [6], [4], [3, 9], [1, 1]])
@pytest.mark.parametrize("upstream_first", [False, True])
def test_repaired_positions_are_ragged_along_the_sequence(lengths: list[int], upstream_first: bool) -> None:
    wanted = positions(lengths)
    data = batch(wanted)
    if upstream_first:
        tu.maybe_fix_3d_position_ids(data)
    repair_position_ids(data)
    found = rows_of(data)
    assert [f.shape for f in found] == [w.shape for w in wanted]
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


def test_sound_positions_are_left_alone() -> None:
    data = TensorDict({"position_ids": tu.nested_tensor_from_tensor_list(positions([5, 5]))}, batch_size=2)
    before = data["position_ids"]
    repair_position_ids(data)
    assert data["position_ids"] is before


def test_other_batches_are_left_alone() -> None:
    plain = TensorDict({"position_ids": torch.arange(6).view(2, 3)}, batch_size=2)
    repair_position_ids(plain)
    assert torch.equal(plain["position_ids"], torch.arange(6).view(2, 3))
    nothing = TensorDict({}, batch_size=2)
    repair_position_ids(nothing)
    assert "position_ids" not in nothing.keys()  # noqa: SIM118
