"""Gradient norms of the objective's terms by module: what each of them asks of the policy, measured now and then.

One micro-batch goes forward and backward once more for each term, before the update proper, and its gradients are
dropped again: a few percent of one step in ``trainer.grad_every``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric

from verl_ext.policy.adapters import plain_name

TERMS = ("text", "calibration", "auxiliary")
"""What `verl_ext.objective.rl_loss.rl_loss` can compute ``only``."""
MODULES = {"projection": "text_hidden_fcs.", "mask_decoder": "grounding_encoder."}
"""By prefix of a parameter's name; all others are the language model, its vision tower included."""
LANGUAGE_MODEL = "language_model"

Backward = Callable[[TensorDict, Callable[..., Any]], Any]


def gradient_norms(
    named: Callable[[], Iterable[tuple[str, torch.nn.Parameter]]],
    data: TensorDict,
    loss_function: Callable[..., Any],
    backward: Backward,
    clear: Callable[[], None],
    rows: int,
) -> dict[str, Metric]:
    """``grad/<term>/<module>`` of the first ``rows`` rows of ``data``, scaled to all of them.

    Args:
        named: the trained module's parameters.
        backward: one forward and backward of a batch under a loss; gradients are left in the parameters.
        clear: drops gradients.
    """
    rows = min(rows, len(data))
    probe = tu.index_select_tensor_dict(data, list(range(rows)))
    out: dict[str, Metric] = {}
    for term in TERMS:
        clear()
        backward(probe, partial(loss_function, only=term))
        for module, norm in norms_by_module(named()).items():
            out[f"grad/{term}/{module}"] = Metric(AggregationType.MEAN, norm * len(data) / rows)
    clear()
    return out


def norms_by_module(named: Iterable[tuple[str, torch.nn.Parameter]]) -> dict[str, float]:
    """The gradient's norm in each module; a collective call where parameters are sharded. 0 where nothing arrives."""
    gradients: dict[str, list[torch.Tensor]] = {LANGUAGE_MODEL: [], **{module: [] for module in MODULES}}
    for name, parameter in named:
        if parameter.grad is not None:
            found = (m for m, prefix in MODULES.items() if plain_name(name).startswith(prefix))
            gradients[next(found, LANGUAGE_MODEL)].append(parameter.grad)
    norms = {module: torch.nn.utils.get_total_norm(g) for module, g in gradients.items() if g}
    whole = {module: n.full_tensor() if hasattr(n, "full_tensor") else n for module, n in norms.items()}
    return {module: float(whole[module]) if module in whole else 0.0 for module in gradients}
