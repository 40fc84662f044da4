"""The distributed loss equals the plain one (``verl_ext.seg.losses``) and keeps its invariants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tensordict.tensorclass import NonTensorData
from verl.trainer.ppo.core_algos import kl_penalty
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.metric import Metric

from tests.verl_ext.batches import jagged
from verl_ext.objective.rl_loss import K3_MOST, divergence, rl_loss
from verl_ext.recipe import Recipe
from verl_ext.run.verl_config import grpo_config
from verl_ext.seg.batch import rows_with_dummy, rows_without_dummy
from verl_ext.seg.calibration import SegCountMismatchError
from verl_ext.seg.losses import grpo_objective, k3_kl, mask_bce, mask_dice, mask_loss

KL, AUX = 0.04, 0.2


@pytest.fixture(scope="module")
def config(tiny_recipe: Callable[..., Recipe]) -> Any:
    return omega_conf_to_dataclass(grpo_config(tiny_recipe("grpo")).actor_rollout_ref.actor)


@dataclass
class Case:
    """B sequences of unequal prompts and responses; ``seg`` holds positions within the response."""

    prompts: tuple[int, ...] = (4, 7, 3)
    responses: tuple[int, ...] = (9, 5, 12)
    seg: tuple[tuple[int, ...], ...] = ((2, 6), (), (1, 5, 11))
    seed: int = 0
    gap: float = 0.05
    """How far old and reference log-probs are from the current ones."""
    spatial: int = 2
    """Video masks of each ``[SEG]``."""

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)

        def draw(n: int, scale: float = 1.0) -> torch.Tensor:
            return torch.randn(n, generator=g, dtype=torch.float64) * scale

        self.new = [-draw(n).abs() for n in self.responses]
        self.old = [x + draw(len(x), self.gap) for x in self.new]
        self.ref = [x + draw(len(x), self.gap) for x in self.new]
        self.mask = [(torch.rand(n, generator=g) < 0.8).long() for n in self.responses]
        for mask, seg in zip(self.mask, self.seg, strict=True):
            mask[list(seg)] = 1
        self.mask_now = [-draw(len(s)).abs() for s in self.seg]
        self.mask_old = [x + draw(len(x), self.gap) for x in self.mask_now]
        self.advantage = draw(len(self.responses))
        n = len(self.seg)
        self.masks = [[self._masks(g, len(s) * k) for k in (self.spatial, 1)] for s in self.seg]
        self.totals = [sum(len(row[i][0]) for row in self.masks) for i in range(2)]
        self.aux_bce, self.aux_dice, self.aux_masks = (torch.zeros(n, 2, dtype=torch.float64) for _ in range(3))
        for b, row in enumerate(self.masks):
            for kind, (logits, truth) in enumerate(row):
                self.aux_masks[b, kind] = len(logits)
                if len(logits):
                    self.aux_bce[b, kind] = mask_bce(logits, truth).mean()
                    self.aux_dice[b, kind] = mask_dice(logits, truth).mean()

    def _masks(self, g: torch.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 4, 4) logits and their ground truth."""
        return torch.randn(n, 4, 4, generator=g), (torch.rand(n, 4, 4, generator=g) < 0.4).float()

    def drawn(self, kind: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and truth of all the batch's video masks (0) or keyframe masks (1)."""
        logits, truth = zip(*(row[kind] for row in self.masks), strict=True)
        return torch.cat(logits), torch.cat(truth)

    def flat(self, rows: list[torch.Tensor]) -> torch.Tensor:
        counts = [len(r) for r in rows]
        return rows_with_dummy(torch.cat(rows), counts)

    def output(self, new: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The engine's output: the log-prob of response token i stands one place before it, among prompt tokens."""
        whole = [
            torch.cat([torch.full((p - 1,), -7.0, dtype=x.dtype), x, torch.full((1,), -7.0, dtype=x.dtype)])
            for p, x in zip(self.prompts, new, strict=True)
        ]
        return {
            "log_probs": jagged(whole),
            "mask_log_prob": self.flat(self.mask_now),
            "aux_bce": self.aux_bce,
            "aux_dice": self.aux_dice,
            "aux_kept": (self.aux_masks > 0).double(),
            "aux_masks": self.aux_masks,
        }

    def data(self) -> Any:
        episodes = [
            {"episode": {"turns": [{"seg_positions": [p + s for s in seg]}], "spatial_frames": []}}
            for p, seg in zip(self.prompts, self.seg, strict=True)
        ]
        sample = {"clip": {"name": "c", "frames": [], "height": 1, "width": 1}, "masklets": None}
        sample["expression"] = {"id": "0", "text": "", "anno_ids": []}
        rows = {
            "prompts": jagged([torch.zeros(n, dtype=torch.long) for n in self.prompts]),
            "responses": jagged([torch.zeros(n, dtype=torch.long) for n in self.responses]),
            "response_mask": jagged(self.mask),
            "old_log_probs": jagged(self.old),
            "ref_log_prob": jagged(self.ref),
            "advantages": jagged([a * m for a, m in zip(self.advantage, self.mask, strict=True)]),
            "old_mask_log_prob": self.flat(self.mask_old),
            "extra_fields": torch.stack([NonTensorData(e) for e in episodes]),
            "sample": torch.stack([NonTensorData(sample) for _ in episodes]),
        }
        settings = {"dp_size": 1, "global_batch_size": 3, "batch_num_tokens": sum(int(m.sum()) for m in self.mask)}
        settings |= {"video_masks": self.totals[0], "keyframe_masks": self.totals[1]}
        return tu.get_tensordict(tensor_dict=rows, non_tensor_dict=settings)

    def plain(self, new: list[torch.Tensor], masks: list[torch.Tensor], aux: float = 0.0) -> torch.Tensor:
        """The loss of SPEC 2.4 in plain torch."""
        pad = torch.nn.utils.rnn.pad_sequence
        lp, old, ref = (pad(x, batch_first=True) for x in (new, self.old, self.ref))
        old_calibrated = old.clone()
        for b, seg in enumerate(self.seg):
            old_calibrated[b, list(seg)] += self.mask_old[b]
        return grpo_objective(
            lp,
            ref,
            self.advantage,
            pad(self.mask, batch_first=True),
            masks,
            self.seg,
            old_calibrated=old_calibrated,
            video=self.drawn(0),
            keyframe=self.drawn(1),
            kl_coef=KL,
            aux_coef=aux,
        ).loss


def value(metric: Any) -> float:
    number = torch.as_tensor(metric.aggregate() if isinstance(metric, Metric) else metric)
    return float(number.detach())


@pytest.mark.parametrize("aux", [0.0, AUX])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_plain_objective_and_its_gradients(config: Any, seed: int, aux: float) -> None:
    case = Case(seed=seed)
    new = [x.clone().requires_grad_() for x in case.new]
    masks = [x.clone().requires_grad_() for x in case.mask_now]
    case.mask_now = masks
    loss, metrics = rl_loss(config, case.output(new), case.data(), aux_coef=aux)
    leaves = [*new, *(m for m in masks if len(m))]
    found = torch.autograd.grad(loss, leaves, retain_graph=True)
    expected_loss = case.plain(new, masks, aux)
    expected = torch.autograd.grad(expected_loss, leaves)
    assert value(loss) == pytest.approx(value(expected_loss), abs=1e-6 if aux else 1e-9)  # masks are float32
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, atol=1e-9)
    assert any(float(e.abs().sum()) > 0 for e in expected[len(new) :])  # the mask decoder is reached
    assert value(metrics["seg/tokens"]) == 5


def test_micro_batches_and_ranks_sum_to_the_batch(config: Any) -> None:
    case = Case(seed=3)
    whole = value(rl_loss(config, case.output(case.new), case.data())[0])
    parts = 0.0
    for b in range(3):
        one = Case(case.prompts[b : b + 1], case.responses[b : b + 1], case.seg[b : b + 1])
        for name in ("new", "old", "ref", "mask", "mask_now", "mask_old", "advantage"):
            setattr(one, name, getattr(case, name)[b : b + 1])
        for name in ("aux_bce", "aux_dice", "aux_masks"):
            setattr(one, name, getattr(case, name)[b : b + 1])
        one.totals = case.totals  # of the whole mini-batch, as the engine counts them
        data = one.data()
        tu.assign_non_tensor(data, global_batch_size=3)
        parts += value(rl_loss(config, one.output(one.new), data)[0])
    assert parts == pytest.approx(whole, abs=1e-9)


def test_auxiliary_losses_are_means_over_masks_with_their_coefficient(config: Any) -> None:
    """A dialogue of three turns counts three times one of one turn, and one without ``[SEG]`` not at all."""
    case = Case(seed=1)
    without, _ = rl_loss(config, case.output(case.new), case.data(), aux_coef=0.0)
    with_aux, metrics = rl_loss(config, case.output(case.new), case.data(), aux_coef=AUX)
    video, keyframe = (float(mask_loss(*case.drawn(kind))) for kind in (0, 1))
    assert value(with_aux) - value(without) == pytest.approx(AUX * (video + keyframe), abs=1e-6)
    assert value(metrics["aux/video"]) == pytest.approx(video)
    assert value(metrics["aux/keyframe"]) == pytest.approx(keyframe)
    assert value(metrics["aux/kept"]) == pytest.approx(1.0)
    half = case.output(case.new)
    half["aux_kept"] = half["aux_kept"] / 2
    assert value(rl_loss(config, half, case.data())[1]["aux/kept"]) == pytest.approx(0.5)


def test_first_step_has_ratio_one_and_no_divergence(config: Any) -> None:
    case = Case(gap=0.0)
    _, metrics = rl_loss(config, case.output(case.new), case.data())
    assert value(metrics["actor/ppo_kl"]) == 0.0
    assert value(metrics["actor/pg_clipfrac"]) == 0.0
    assert value(metrics["kl_loss"]) == 0.0
    per_row = [(m * -a).sum() / m.sum() for a, m in zip(case.advantage, case.mask, strict=True)]
    assert value(metrics["actor/pg_loss"]) == pytest.approx(float(torch.stack(per_row).mean()), abs=1e-9)


def test_rollout_correction_weighs_a_tokens_loss_mask_term_included(config: Any) -> None:
    """A ``[SEG]`` token's weight is that of its text."""
    case = Case(seed=4)
    weights = [torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in case.responses]
    found: dict[str, Any] = {}
    for name, given in {"whole": None, "ones": [torch.ones_like(w) for w in weights], "weighed": weights}.items():
        data = case.data()
        if given is not None:
            data["rollout_is_weights"] = jagged(given)
        new = [x.clone().requires_grad_() for x in case.new]
        masks = case.mask_now = [x.detach().clone().requires_grad_() for x in case.mask_now]
        loss, metrics = rl_loss(_without_divergence(config), case.output(new), data, aux_coef=0.0)
        leaves = [*new, *(m for m in masks if len(m))]
        found[name] = (torch.autograd.grad(loss, leaves), value(metrics["actor/pg_loss"]))
    assert found["ones"][1] == found["whole"][1] != found["weighed"][1]
    for b, (plain, weighed) in enumerate(zip(found["whole"][0][:3], found["weighed"][0][:3], strict=True)):
        assert torch.allclose(weighed, plain * weights[b], atol=1e-12) and plain.abs().sum() > 0
    with_masks = [b for b, seg in enumerate(case.seg) if seg]
    for b, plain, weighed in zip(with_masks, found["whole"][0][3:], found["weighed"][0][3:], strict=True):
        assert torch.allclose(weighed, plain * weights[b][list(case.seg[b])], atol=1e-12)


def _without_divergence(config: Any) -> Any:
    out = copy.copy(config)
    object.__setattr__(out, "use_kl_loss", False)
    return out


def test_divergence_is_between_uncalibrated_log_probs(config: Any) -> None:
    case = Case(gap=0.0)
    case.mask_now = [x - 3.0 for x in case.mask_now]  # masks have changed, texts have not
    _, metrics = rl_loss(config, case.output(case.new), case.data())
    assert value(metrics["kl_loss"]) == 0.0
    assert value(metrics["actor/ppo_kl"]) != 0.0


def test_without_calibration_masks_do_not_matter(config: Any) -> None:
    case = Case(seed=2)
    before, _ = rl_loss(config, case.output(case.new), case.data(), calibrate=False)
    case.mask_now = [x - 3.0 for x in case.mask_now]
    after, _ = rl_loss(config, case.output(case.new), case.data(), calibrate=False)
    assert value(before) == value(after)


def test_a_policy_without_head_has_no_mask_terms(config: Any) -> None:
    case = Case(seed=2, seg=((), (), ()))
    output = {"log_probs": case.output(case.new)["log_probs"]}
    data = case.data().exclude("old_mask_log_prob")
    loss, metrics = rl_loss(config, output, data)
    assert value(loss) == pytest.approx(value(case.plain(case.new, case.mask_now)), abs=1e-9)
    assert not [name for name in metrics if name.startswith(("aux", "seg"))]


@pytest.mark.parametrize("missing", ["mask_now", "mask_old"])
def test_as_many_masks_as_seg_tokens(config: Any, missing: str) -> None:
    case = Case()
    setattr(case, missing, [getattr(case, missing)[0][:1], *getattr(case, missing)[1:]])
    when = {"mask_now": "now", "mask_old": "at rollout"}[missing]
    with pytest.raises(SegCountMismatchError, match=rf"sequence 0, {when}: 1 masks for 2 \[SEG\] tokens"):
        rl_loss(config, case.output(case.new), case.data())


def test_equal_totals_do_not_hide_a_mask_of_another_sequence(config: Any) -> None:
    case = Case()
    case.mask_now = [case.mask_now[0][:1], torch.zeros(1, dtype=torch.float64), case.mask_now[2]]
    with pytest.raises(SegCountMismatchError, match="sequence 0"):
        rl_loss(config, case.output(case.new), case.data())


def test_ratio_is_clipped_by_the_recipe(tiny_recipe: Callable[..., Recipe]) -> None:
    case = Case(gap=0.0)
    case.old = [x - 1.0 for x in case.new]  # every ratio is e
    losses = {}
    for clip in (0.1, 0.3):
        recipe = tiny_recipe("grpo", f"objective.clip_ratio={clip}", "objective.kl_coef=0")
        config = omega_conf_to_dataclass(grpo_config(recipe).actor_rollout_ref.actor)
        case.advantage = torch.ones(3, dtype=torch.float64)
        losses[clip] = value(rl_loss(config, case.output(case.new), case.data(), aux_coef=0.0)[0])
    assert losses == {0.1: pytest.approx(-1.1), 0.3: pytest.approx(-1.3)}


def test_rows_survive_the_transport_that_the_test_uses() -> None:
    case = Case()
    rows = list(rows_without_dummy(case.flat(case.mask_now)))
    assert [len(r) for r in rows] == [2, 0, 3]


def test_divergence_is_the_published_one_up_to_verls_cut() -> None:
    gaps = torch.linspace(-10.9, 2.6, 60, dtype=torch.float64)
    log_probs = (-gaps).requires_grad_()
    found = divergence(log_probs, torch.zeros_like(gaps))
    assert torch.allclose(found, k3_kl(log_probs, torch.zeros_like(gaps)), atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), log_probs)
    assert torch.allclose(gradient, 1 - gaps.exp(), atol=1e-12)


@pytest.mark.parametrize("gap", [2.7, 5.0, 19.0, 30.0, -11.5, -15.0, -30.0])
def test_a_token_that_has_gone_far_is_called_back(gap: float) -> None:
    """verl's own k3 is flat there: no gradient, in either direction."""
    log_prob = torch.tensor([-gap], dtype=torch.float64, requires_grad=True)
    flat = kl_penalty(log_prob, torch.zeros(1, dtype=torch.float64), "low_var_kl")
    assert torch.autograd.grad(flat.sum(), log_prob)[0].item() == 0.0  # else `divergence` is no longer needed
    found = divergence(log_prob, torch.zeros(1, dtype=torch.float64))
    assert found.item() == K3_MOST
    assert torch.autograd.grad(found.sum(), log_prob)[0].item() == pytest.approx(-gap)


def test_the_loss_calls_a_token_back(config: Any) -> None:
    case = Case(gap=0.0)
    case.advantage = torch.zeros(3, dtype=torch.float64)
    case.ref[1] = case.new[1] + torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # 20 times rarer by now
    case.mask[1][:] = 1
    new = [x.clone().requires_grad_() for x in case.new]
    loss, _ = rl_loss(config, case.output(new), case.data(), aux_coef=0.0)
    found = torch.autograd.grad(loss, new)
    assert found[1].tolist() == pytest.approx([0.0, KL * -3.0 / 5 / 3, 0.0, 0.0, 0.0])
