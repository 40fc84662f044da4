"""The supervised objective: three terms, each with its own coefficient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from verl.utils import tensordict_utils as tu

from tests.verl_ext.batches import jagged
from verl_ext.objective.sft_loss import supervised_loss

LOG_PROBS = [[-1.0, -2.0, -3.0, -9.0], [-0.5, -9.0]]
MASK = [[0, 0, 1, 1], [0, 1]]  # on the tokens themselves; token i's log-prob stands at i - 1
TEXT = (2.0 + 3.0 + 0.5) / 3


def batch(**settings: Any) -> Any:
    rows = {"loss_mask": jagged([torch.tensor(m) for m in MASK])}
    given = {"dp_size": 1, "global_batch_size": 2, "batch_num_tokens": 3, **settings}
    return tu.get_tensordict(tensor_dict=rows, non_tensor_dict=given)


def output(masks: bool = True) -> dict[str, torch.Tensor]:
    out = {"log_probs": jagged([torch.tensor(x) for x in LOG_PROBS])}
    if masks:
        out["aux_bce"] = torch.tensor([[1.0, 3.0], [0.0, 2.0]])  # means over kinds 2.0 and 1.0
        out["aux_dice"] = torch.tensor([[0.2, 0.4], [0.6, 0.8]])  # 0.3 and 0.7
    return out


@pytest.mark.parametrize(
    ("lm", "mask_ce", "dice"), [(1.0, 2.0, 0.5), (0.0, 1.0, 0.0), (3.0, 0.0, 0.0), (0.5, 0.0, 1.0)]
)
def test_terms_are_weighted(lm: float, mask_ce: float, dice: float) -> None:
    loss, metrics = supervised_loss(None, output(), batch(), lm=lm, mask_ce=mask_ce, dice=dice)
    assert float(loss) == pytest.approx(lm * TEXT + mask_ce * 1.5 + dice * 0.5)
    found = {name: metric.aggregate() for name, metric in metrics.items()}
    assert found == {"lm": pytest.approx(TEXT), "mask_ce": pytest.approx(1.5), "dice": pytest.approx(0.5)}


def test_a_policy_without_head_learns_text_only() -> None:
    loss, metrics = supervised_loss(None, output(masks=False), batch(), lm=2.0)
    assert float(loss) == pytest.approx(2.0 * TEXT)
    assert set(metrics) == {"lm"}


def test_ranks_average_to_the_batch() -> None:
    """Two ranks with one conversation each: FSDP averages their gradients, so losses are scaled by the rank count."""
    whole, _ = supervised_loss(None, output(), batch())
    parts = []
    for b in range(2):
        data = tu.get_tensordict(
            tensor_dict={"loss_mask": jagged([torch.tensor(MASK[b])])},
            non_tensor_dict={"dp_size": 2, "global_batch_size": 2, "batch_num_tokens": 3},
        )
        one = {"log_probs": jagged([torch.tensor(LOG_PROBS[b])])}
        one |= {k: output()[k][b : b + 1] for k in ("aux_bce", "aux_dice")}
        parts.append(float(supervised_loss(None, one, data)[0]))
    assert sum(parts) / 2 == pytest.approx(float(whole))
