"""Cure for a bug of verl 0.9.1 with TransferQueue 0.1.11 and multimodal rotary positions.

When all sequences of a worker's batch have equal length, ``torch.nested.as_nested_tensor`` takes the four position
rows, not the sequence, for the ragged dimension, and verl's ``maybe_fix_3d_position_ids`` then only relabels it: the
forward crashes. The tensor is rebuilt here. ``tests/verl_ext/engine/test_position_ids.py`` fails once upstream is
cured.
"""

from __future__ import annotations

from typing import Any

POSITION_ROWS = 4
"""Text position, then time, height and width."""


def repair_position_ids(data: Any, key: str = "position_ids") -> None:
    """Make ``data[key]`` ragged along the sequence, in place. Nothing happens where it is sound or absent."""
    if key not in data.keys():  # noqa: SIM118 - a TensorDict
        return
    found: Any = data[key]
    if not getattr(found, "is_nested", False) or found.dim() != 3:
        return
    values, offsets = found.values(), found.offsets()
    batch = offsets.numel() - 1
    rows_are_ragged = values.dim() == 2 and values.shape[0] == batch * POSITION_ROWS == int(offsets[-1])
    if not rows_are_ragged or (batch == 1 and values.shape[1] == 1):
        return
    if values.shape[0] == POSITION_ROWS and int(offsets[-1]) == values.shape[1]:
        return  # one sequence of four tokens: both readings agree on the sound one
    from verl.utils.tensordict_utils import nested_tensor_from_tensor_list

    rebuilt = list(values.reshape(batch, POSITION_ROWS, values.shape[1]).unbind(0))
    data[key] = nested_tensor_from_tensor_list(rebuilt, ragged_idx=2)
