"""Rows against one whole sequence at a time through transformers' own forward: float32, all gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import verl_ext.packing.attention as attention
from tests.verl_ext.packing.random_groups import PLAIN, VOCABULARY, group, never_began, padding, tiny_model
from verl_ext.packing.deal import deal_rows, fewest_rows, fitting_units
from verl_ext.packing.dialogue import Dialogue, find_groups
from verl_ext.packing.forward import Scoring, row_log_probs, row_states
from verl_ext.packing.prepare import use_rows
from verl_ext.packing.row import Row, lay_out
from verl_ext.packing.vision import Tower

KINDS = ("qwen3_vl", "qwen2_5_vl")
BANNED = torch.zeros(VOCABULARY, dtype=torch.uint8)
BANNED[PLAIN:] = 1
TEMPERATURE = 0.8


def batch(seed: int) -> list[Dialogue]:
    """Several groups of 1 .. 8, some of them incomplete, one dialogue that never began and verl's padding, mixed."""
    rng = random.Random(seed)
    groups = [group(rng, rng.randint(1, 8), name=str(i)) for i in range(rng.randint(1, 4))]
    dialogues = [d for g in groups for d in g] + [never_began(), padding(), padding()]
    rng.shuffle(dialogues)
    return dialogues


def one_by_one(model: Any, dialogues: Sequence[Dialogue]) -> tuple[list[torch.Tensor], list[torch.Tensor], Any]:
    """Log-probs and entropies of each one's scored tokens, and the gradients of `loss`; forbidden tokens masked."""
    model.zero_grad(set_to_none=True)
    logps, entropies = [], []
    for d in dialogues:
        shown: Any = {"pixel_values": d.pixels, "image_grid_thw": d.grids} if d.pixels is not None else {}
        logits = model(input_ids=d.ids[None], position_ids=d.positions[:, None], use_cache=False, **shown).logits[0]
        spread = (logits.masked_fill(BANNED.bool(), -1e9) / TEMPERATURE).log_softmax(-1)
        at = d.scored.nonzero()[:, 0]
        logps.append(spread[at - 1].gather(1, d.ids[at][:, None])[:, 0])
        entropies.append(-(spread[at - 1].exp() * spread[at - 1]).sum(1).detach())
        loss(logps[-1], int(d.ids.sum())).backward()
    return [x.detach() for x in logps], entropies, gradients(model)


def loss(logp: torch.Tensor, seed: int) -> torch.Tensor:
    weights = torch.randn(len(logp), generator=torch.Generator().manual_seed(seed))
    return (logp * weights).sum()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


Rows = list[tuple[Row, list[int]]]


def rows_of(model: Any, dialogues: Sequence[Dialogue], most: int, share: bool = True) -> Rows:
    tower = Tower.of(model.config)
    groups = find_groups(dialogues, tower.merge) if share else [[i] for i in range(len(dialogues))]
    units = fitting_units(groups, dialogues, most)
    rows = deal_rows(units, dialogues, fewest_rows(units, dialogues, most))
    return [(lay_out(row, dialogues, tower), [i for u in row for i in u]) for row in rows]


def in_rows(
    model: Any, dialogues: Sequence[Dialogue], rows: Rows, keep: bool = True
) -> tuple[list[torch.Tensor], list[torch.Tensor], Any]:
    model.zero_grad(set_to_none=True)
    logps: dict[int, torch.Tensor] = {}
    entropies: dict[int, torch.Tensor] = {}
    for row, order in rows:
        found = row_log_probs(model, row_states(model, row), row, Scoring(BANNED, TEMPERATURE, keep))
        counts = [int(dialogues[i].scored.sum()) for i in order]
        parts = dict(zip(order, found[0].split(counts), strict=True))
        sum(loss(x, int(dialogues[i].ids.sum())) for i, x in parts.items()).backward()  # type: ignore[union-attr]
        logps |= {i: x.detach() for i, x in parts.items()}
        entropies |= dict(zip(order, found[1].split(counts), strict=True))
    return [logps[i] for i in range(len(dialogues))], [entropies[i] for i in range(len(dialogues))], gradients(model)


def differences(found: Any, wanted: Any) -> tuple[float, float]:
    """The largest of log-probs and entropies, and the worst parameter's relative error of the gradient."""
    gaps = [(a - b).abs().max() for k in (0, 1) for a, b in zip(found[k], wanted[k], strict=True) if len(b)]
    assert found[2].keys() == wanted[2].keys()
    total = torch.stack([g.norm() for g in wanted[2].values()]).norm() / len(wanted[2])
    worst = max((found[2][n] - g).norm() / g.norm().clamp_min(1e-3 * total) for n, g in wanted[2].items())
    return float(max(gaps)), float(worst)


def exact(found: Any, wanted: Any) -> bool:
    gap, worst = differences(found, wanted)
    return gap < 1e-5 and worst < 1e-4


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_rows_compute_what_single_sequences_do(kind: str, seed: int) -> None:
    model, dialogues = tiny_model(kind), batch(seed)
    wanted = one_by_one(model, dialogues)
    use_rows(model, half=False, device="cpu")
    if seed % 2:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    longest = max(len(d) for d in dialogues)
    for most, share in ((10**6, True), (longest + 60, True), (longest, True), (longest + 60, False)):
        rows = rows_of(model, dialogues, most, share)
        assert all(row.ids.shape[1] <= most for row, _ in rows)
        found = in_rows(model, dialogues, rows, keep=seed % 3 == 0)
        assert exact(found, wanted), differences(found, wanted)


def test_a_prompt_is_computed_once() -> None:
    dialogues = group(random.Random(1), 8)
    (row, _), *more = rows_of(tiny_model("qwen3_vl"), dialogues, 10**6)
    prompt = dialogues[0].prompt
    assert not more and row.ids.shape[1] == prompt + sum(len(d) - prompt for d in dialogues)


def shifted(rows: Rows) -> Rows:
    """A planted fault: one position, that of the token before the last, is off by one."""
    rows[0][0].text["position_ids"] = rows[0][0].text["position_ids"].clone()
    rows[0][0].text["position_ids"][..., -2] += 1
    return rows


def leaking(rows: Rows) -> Rows:
    """A planted fault: two neighbouring responses of a group are one block, so that the second sees the first."""
    text = rows[0][0].text
    last = text["row_blocks"].tolist()
    text["row_blocks"] = torch.tensor(last[:-2] + last[-1:], dtype=torch.int32)
    return rows


@pytest.mark.parametrize("fault", [shifted, leaking])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_faults_are_seen(kind: str, fault: Callable[[Rows], Rows]) -> None:
    model, dialogues = tiny_model(kind), group(random.Random(3), 4)
    wanted = one_by_one(model, dialogues)
    use_rows(model, half=False, device="cpu")
    assert exact(in_rows(model, dialogues, rows_of(model, dialogues, 10**6)), wanted)
    assert not exact(in_rows(model, dialogues, fault(rows_of(model, dialogues, 10**6))), wanted)


def test_attention_agrees_with_a_mask_over_the_whole_row() -> None:
    """The cascade, forward and backward, against one softmax under an explicit mask in float64."""
    torch.manual_seed(0)
    prompts, answers, alone = [5, 3], [[2, 4], [1, 1, 3]], [6]
    blocks = [*prompts, *(n for group in answers for n in group), *alone]
    total, shared = sum(blocks), sum(prompts)
    q, k, v = (torch.randn(total, h, 8, dtype=torch.float64).requires_grad_() for h in (4, 2, 2))
    owner = torch.cat([torch.full((n,), b) for b, n in enumerate(blocks)])
    prompt_of = torch.tensor([-1, -1, 0, 0, 1, 1, 1, -1])[owner]
    causal = torch.ones(total, total).tril().bool()
    mask = ((owner[:, None] == owner) & causal) | ((prompt_of[:, None] == owner) & (owner < 2))
    wide = [x.repeat_interleave(2, 1).transpose(0, 1) for x in (k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1), *wide, attn_mask=mask).transpose(0, 1)
    cu = [attention_offsets(x) for x in (blocks, [sum(g) for g in answers], prompts)]
    found, _ = attention.attend(q, k, v, *cu, max(blocks), 6, 5, shared, sum(sum(g) for g in answers), True, 8**-0.5)
    grad = torch.randn_like(want)
    torch.testing.assert_close(found, want)
    for a, b in zip(
        torch.autograd.grad(found, (q, k, v), grad), torch.autograd.grad(want, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(a, b)


def attention_offsets(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def test_deepstack_features_are_added_where_a_mask_would_add_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, gradients too; and no row asks the device which of its tokens are pictures."""
    model = tiny_model("qwen3_vl")
    language = model.model.language_model
    by_mask = language._deepstack_process
    use_rows(model, half=False, device="cpu")
    torch.manual_seed(0)
    where = torch.tensor([5, 2, 7])
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[0, where] = True
    found = []
    for way, rows, order in ((by_mask, mask, where.argsort()), (language._deepstack_process, where, slice(None))):
        torch.manual_seed(1)
        states, features = torch.randn(1, 9, 4).bfloat16(), torch.randn(3, 4).bfloat16()
        weights = torch.randn(1, 9, 4).bfloat16()
        leaves = states.requires_grad_(), features.requires_grad_()
        out = way(states, rows, features[order])
        (out * weights).sum().backward()
        found.append((out.detach(), *(x.grad for x in leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert torch.equal(language._deepstack_process(states, mask, features), by_mask(states, mask, features))
    seen: list[torch.dtype] = []
    by_index = language._deepstack_process
    monkeypatch.setattr(language, "_deepstack_process", lambda s, at, f: (seen.append(at.dtype), by_index(s, at, f))[1])
    dialogues = batch(0)
    in_rows(model, dialogues, rows_of(model, dialogues, 10**6))
    assert set(seen) == {torch.int64}
