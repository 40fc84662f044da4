"""Which form of calibration moves a ``[SEG]`` state whose mask has a habit? SAM 2's modules, and next to no text.

``python benchmarks/exploring_states.py --json benchmarks/results/exploring_states.json``

The thinnest experiment in the ``twins`` world: a tiny SAM 2 from the mask warm-up, and in a language model's place a
table that knows which disc is asked for and samples one irrelevant word. It learns true masks, then those of a teacher
who draws the other twin at a stated rate; then reinforcement with the project's own reward, advantages and calibration
forms. Minutes on one core. What it cannot show: whether a language model's ``[SEG]`` state is as easily moved.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import environment_facts, write_json
from rewards.mask_iou import iou_step
from rewards.segmenter import Features, Segmenter, SegmenterConfig
from rewards.segmenter.masks import mask_iou
from verl_ext.seg.calibration import binarise_rollout_mask, mask_log_prob
from verl_ext.seg.drawn_states import state_log_prob, state_noise
from verl_ext.seg.losses import group_advantages, mask_bce, mask_dice

DISCS, WORDS, SPREAD, FRAMES = 4, 8, 2.0, 1
PROMPTS, GROUP, TOKENS, KL = 16, 8, 40, 0.04
"""A reply has so many tokens, of which one is sampled here: the ``[SEG]`` token's share of the loss is 1 / TOKENS."""
STATE_LR, DECODER_LR, BATCH = 1e-3, 5e-6, 24
RL_LR = 3e-4


class Policy(nn.Module):
    """(N,) disc asked for -> logits of a word that means nothing; with that word, the (N, C) state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.text = nn.Embedding(DISCS, WORDS)
        self.row, self.side = nn.Embedding(2, 32), nn.Embedding(2, 32)
        self.word = nn.Embedding(WORDS, 32)
        self.project = nn.Sequential(nn.Linear(96, width), nn.ReLU(), nn.Linear(width, width))
        nn.init.zeros_(self.text.weight)
        with torch.no_grad():
            disc, word = torch.arange(DISCS * WORDS) % DISCS, torch.arange(DISCS * WORDS) // DISCS
            last: Any = self.project[-1]
            last.weight.mul_(SPREAD / self.states(disc, word).std(dim=0).mean())

    def states(self, disc: Tensor, word: Tensor) -> Tensor:
        return self.project(torch.cat([self.row(disc // 2), self.side(disc % 2), self.word(word)], dim=1))  # type: ignore[no-any-return]


@dataclass
class Scenes:
    """Clips whose frames are encoded once. ``masks`` (K, F, h, w) by disc and frame."""

    segmenter: Segmenter
    features: Features
    masks: Tensor

    @property
    def clips(self) -> int:
        return self.masks.shape[1] // FRAMES

    def frames(self, clip: Tensor) -> Tensor:
        """(N,) -> (N * FRAMES,) rows of the features."""
        return (clip[:, None] * FRAMES + torch.arange(FRAMES)).flatten()

    def draw(self, clip: Tensor, states: Tensor) -> Tensor:
        """(N * FRAMES, h, w) logits."""
        return self.segmenter.decode(self.features, self.frames(clip), states.repeat_interleave(FRAMES, dim=0))[0]

    def of(self, clip: Tensor, disc: Tensor) -> Tensor:
        """(N * FRAMES, h, w) bool."""
        return self.masks[disc.repeat_interleave(FRAMES), self.frames(clip)]


def make_scenes(folder: Path, clips: int, warm_up: int, seed: int) -> tuple[Scenes, Scenes]:
    """Train and held-out clips of the world, and the SAM 2 that was warmed up on the former."""
    from data_construction.readers import open_dataset
    from data_construction.synthetic import make_synthetic, object_words, read_synthetic_objects
    from rollout.frames import load_frames
    from verl_ext.quickstart.settings import QuickstartSettings
    from verl_ext.tiny.warm_up import WarmUpSettings, warm_up_segmenter
    from verl_ext.tiny.warm_up_clips import soft_targets
    from verl_ext.tiny.warm_up_tasks import TaskSettings

    make_synthetic(folder, {"train": clips, "test": clips // 2}, seed=seed, frames=(12, 12), world="twins")
    words = {a: object_words(o) for a, o in read_synthetic_objects(folder).items()}
    how = QuickstartSettings().warm_up
    segmenter = Segmenter(SegmenterConfig(seed=seed, propagation_gate=False))
    samples = list(open_dataset("revos", folder, "train").samples())
    settings = WarmUpSettings(**{**how, "tasks": TaskSettings(**how["tasks"])})
    found = warm_up_segmenter(segmenter, samples, words, warm_up, seed, settings=settings)
    print("SAM 2:", {k: round(v, 2) for k, v in found.items()}, flush=True)
    out = []
    for split in ("train", "test"):
        pixels, masks = [], []
        for name in (data := open_dataset("revos", folder, split)).clips():
            sample = data.get(name, "0")
            shown = np.linspace(0, sample.clip.num_frames - 1, FRAMES).round().astype(int).tolist()
            pixels.append(segmenter.preprocess(load_frames(sample.clip, shown)))
            discs = data.masklets(name, tuple(a for e in data.expressions(name) for a in e.anno_ids))
            assert discs is not None
            sides = [soft_targets([discs.object_mask(k, t) for t in shown], segmenter.logit_size) for k in range(DISCS)]
            masks.append(torch.stack(sides) > 0.5)
        with torch.no_grad():
            features = segmenter.encode(torch.cat(pixels))
        out.append(Scenes(segmenter, features, torch.cat(masks, dim=1)))
    return out[0], out[1]


def supervise(
    policy: Policy, scenes: Scenes, steps: int, wrong_twin: float, dice: float, rng: np.random.Generator
) -> None:
    """True masks, or at a rate those of the twin; the supervised stages' loss on masks."""
    optimizer = adam(policy, scenes, STATE_LR)
    for _ in range(steps):
        clip, disc = drawn(scenes, BATCH, rng)
        word = torch.from_numpy(rng.integers(WORDS, size=len(disc)))
        other = torch.from_numpy(rng.random(len(disc)) < wrong_twin) & (disc % 2 == 1)
        target = scenes.of(clip, torch.where(other, disc ^ 1, disc))
        logits = scenes.draw(clip, policy.states(disc, word))
        step(optimizer, (2 * mask_bce(logits, target) + dice * mask_dice(logits, target)).mean())


@dataclass(frozen=True)
class Form:
    """What is added to the ``[SEG]`` token's log-prob, and the auxiliary loss's coefficient."""

    reduction: str = ""
    """Of the published form; empty: none."""
    sigma: float = 0.0
    """Of drawn states; 0: none."""
    aux: float = 0.0
    policy_term: bool = True


FORMS: dict[str, Form] = {
    "none": Form(),
    "states_1": Form(sigma=1.0),
    "published": Form("mean"),
    "states_0.3": Form(sigma=0.3),
    "auxiliary": Form(aux=0.2, policy_term=False),
    "states_2": Form(sigma=2.0),
    "sum": Form("sum"),
    "topk": Form("topk"),
}
"""``states_S``: drawn with sigma S. ``auxiliary``: that loss alone."""


def reinforce(policy: Policy, scenes: Scenes, form: Form, steps: int, seed: int) -> dict[str, float]:
    """GRPO, one update a step; returns what the groups were like on average."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer, reference = adam(policy, scenes, RL_LR), policy.text.weight.detach().log_softmax(-1)
    apart, moved = [], []
    for _ in range(steps):
        clip, disc = (x.repeat_interleave(GROUP) for x in drawn(scenes, PROMPTS, rng))
        with torch.no_grad():
            words = torch.multinomial(policy.text(disc).softmax(-1), 1, generator=generator)[:, 0]
            states = policy.states(disc, words)
            acted = states + state_noise(*states.shape, form.sigma, generator) if form.sigma else states
            masks = scenes.draw(clip, acted)
            ious = mask_iou(masks > 0, scenes.of(clip, disc)).view(-1, FRAMES)
            rewards = torch.tensor([np.mean([iou_step(float(v)) for v in row]) for row in ious])
            groups = torch.arange(PROMPTS).repeat_interleave(GROUP)
            advantages = group_advantages(rewards, groups)
        apart.append(float(rewards.view(PROMPTS, GROUP).std(dim=1).mean()))
        text = policy.text(disc).log_softmax(-1)
        log_prob, now = text.gather(1, words[:, None])[:, 0], policy.states(disc, words)
        seg: Tensor = torch.zeros_like(log_prob)
        if form.sigma:
            seg = state_log_prob(now, acted, form.sigma)
        elif form.reduction:
            keyframes = slice(0, None, FRAMES)
            target = binarise_rollout_mask(masks[keyframes])
            seg = mask_log_prob(scenes.draw(clip, now)[keyframes], target, form.reduction, 0.1)  # type: ignore[arg-type]
        loss = log_prob.sum() * 0.0
        if form.policy_term:
            ratios = (log_prob - log_prob.detach()).exp() + (seg - seg.detach()).exp()
            loss = -(advantages * ratios / TOKENS).mean()
            loss = loss + KL / TOKENS * (text.exp() * (text - reference[disc])).sum(-1).mean()
        if form.aux:
            logits, truth = scenes.draw(clip, now), scenes.of(clip, disc)
            loss = loss + form.aux * (mask_bce(logits, truth) + mask_dice(logits, truth)).mean()
        before = now.detach()
        step(optimizer, loss)
        with torch.no_grad():
            moved.append(float((policy.states(disc, words) - before).norm(dim=1).mean()))
    return {"reward_spread": round(float(np.mean(apart)), 3), "state_step": round(float(np.mean(moved)), 3)}


@torch.no_grad()
def measure(policy: Policy, scenes: Scenes) -> dict[str, float]:
    """IoU in percent on all discs of all clips, likeliest word and no noise: with the disc asked for and its twin."""
    clip, disc = torch.arange(scenes.clips).repeat_interleave(DISCS), torch.arange(DISCS).repeat(scenes.clips)
    masks = scenes.draw(clip, policy.states(disc, policy.text(disc).argmax(-1))) > 0
    found = {"right": disc, "twin": disc ^ 1}
    return {k: round(100 * float(mask_iou(masks, scenes.of(clip, d)).mean()), 1) for k, d in found.items()}


@torch.no_grad()
def reachable(policy: Policy, scenes: Scenes, sigma: float, seed: int) -> float:
    """Share of drawn states, in percent, whose masks have an IoU above one half with what is asked for."""
    generator = torch.Generator().manual_seed(seed)
    clip, disc = torch.arange(scenes.clips).repeat_interleave(DISCS), torch.arange(DISCS).repeat(scenes.clips)
    states = policy.states(disc, torch.randint(WORDS, disc.shape, generator=generator))
    masks = scenes.draw(clip, states + state_noise(*states.shape, sigma, generator)) > 0
    return round(100 * float((mask_iou(masks, scenes.of(clip, disc)) > 0.5).double().mean()), 1)


def adam(policy: Policy, scenes: Scenes, lr: float) -> torch.optim.Optimizer:
    decoder = scenes.segmenter.trainable_parameters()
    groups = [{"params": [*policy.parameters()], "lr": lr}, {"params": decoder, "lr": DECODER_LR}]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()


def drawn(scenes: Scenes, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Clips and discs, (count,) each."""
    return torch.from_numpy(rng.integers(scenes.clips, size=count)), torch.from_numpy(rng.integers(DISCS, size=count))


def run(
    forms: list[str],
    rates: list[float],
    dice: float,
    seeds: list[int],
    sizes: tuple[int, int, int, int, int],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """By rate: what the cold start draws and reaches, and each form after reinforcement, means over seeds."""
    clips, warm_up, clean, habit, steps = sizes
    with tempfile.TemporaryDirectory() as folder:
        train, test = make_scenes(Path(folder) / "twins", clips, warm_up, seed=0)
    torch.manual_seed(0)
    taught = Policy(train.segmenter.prompt_width)
    supervise(taught, train, clean, 0.0, 0.5, np.random.default_rng(0))
    decoder = copy.deepcopy(train.segmenter.decoder_state_dict())
    out: dict[str, Any] = {"true_masks_taught": measure(taught, test), "rates": {}}
    tell(f"true masks taught: {out['true_masks_taught']}")
    for rate in rates:
        train.segmenter.load_decoder_state_dict(decoder)
        cold = copy.deepcopy(taught)
        supervise(cold, train, habit, rate, dice, np.random.default_rng(1))
        cold_decoder = copy.deepcopy(train.segmenter.decoder_state_dict())
        found: dict[str, Any] = {"cold_start": measure(cold, test)}
        found["reachable"] = {f"{s:g}": reachable(cold, test, s, 0) for s in (0.0, 0.3, 1.0, 2.0)}
        tell(f"rate {rate:g}: cold start {found['cold_start']}, right by sigma {found['reachable']}")
        found["forms"] = {}
        for name in forms:
            rows = []
            for seed in seeds:
                train.segmenter.load_decoder_state_dict(cold_decoder)
                policy = copy.deepcopy(cold)
                told = reinforce(policy, train, FORMS[name], steps, seed)
                rows.append(measure(policy, test) | told)
            means = {k: round(float(np.mean([r[k] for r in rows])), 3) for k in rows[0]}
            found["forms"][name] = means | {"right_by_seed": [r["right"] for r in rows]}
            tell(f"  {name:12s}{found['forms'][name]}")
        out["rates"][f"{rate:g}"] = found
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.6], help="of the twin in the traces")
    parser.add_argument("--forms", nargs="+", choices=[*FORMS], default=[*FORMS], help="by default all")
    parser.add_argument("--dice", type=float, default=0.0, help="of the loss on the teacher's masks, beside BCE x 2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of reinforcement")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=200, help="steps of SAM 2")
    parser.add_argument("--clean", type=int, default=200, help="supervised steps on true masks")
    parser.add_argument("--habit", type=int, default=200, help="supervised steps on the teacher's masks")
    parser.add_argument("--steps", type=int, default=60, help="of reinforcement")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    sizes = (args.clips, args.warm_up, args.clean, args.habit, args.steps)
    found = run(args.forms, args.rates, args.dice, args.seeds, sizes, lambda text: print(text, flush=True))
    if args.json:
        write_json(
            args.json,
            {"benchmark": "exploring_states", **environment_facts(), "steps": args.steps, "dice": args.dice, **found},
        )


if __name__ == "__main__":
    main()
