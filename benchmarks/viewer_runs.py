"""A run with as many kept rollouts as one likes, from data alone: what the viewer's benchmark and tests look at."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rollout.types import RLE, Action, Grounding, Sample, StopReason
from verl_ext.rollout_log import KeptGroup, KeptRollout, KeptTurn, LogProbs, write_step

STOPS = (StopReason.ANSWERED, StopReason.ANSWERED, StopReason.ANSWERED, StopReason.BAD_ACTION, StopReason.TURN_LIMIT)
SENTENCE = "the target moves left behind a blue square so this frame where it is alone tells most about its shape"
WORDS = SENTENCE.split()


def write_run(
    folder: Path, samples: Sequence[Sample], steps: int, groups: int, rollouts: int, seed: int = 0, name: str = "rl"
) -> None:
    """Metrics, recipe and rollouts of ``steps`` steps; rewards rise, masks are the truth moved by what is missing."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved.yaml").write_text(f"name: {name}\nstage: grpo\nmethod: videoseg_o3\nseed: {seed}\n")
    lines = []
    for step in range(1, steps + 1):
        skill = 0.25 + 0.6 * step / steps
        chosen = [samples[(step * groups + i) % len(samples)] for i in range(groups)]
        made = [_group(rng, sample, step, rollouts, skill) for sample in chosen]
        write_step(folder, step, made)
        lines.append(json.dumps({"step": step, "data": _metrics(rng, made, skill)}))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _group(rng: random.Random, sample: Sample, step: int, rollouts: int, skill: float) -> KeptGroup:
    masklets = sample.masklets
    assert masklets is not None
    total = sample.clip.num_frames
    spatial = (total // 4, 3 * total // 4)
    made = [_rollout(rng, sample, spatial, step, skill) for _ in range(rollouts)]
    mean = float(np.mean([r.rewards["total"] for r in made]))
    spread = float(np.std([r.rewards["total"] for r in made])) or 1.0
    kept = tuple(KeptRollout(**{**vars(r), "advantage": (r.rewards["total"] - mean) / spread}) for r in made)
    frames = sorted({t for r in kept for turn in r.turns for t in (*turn.shown, *turn.masks)})
    truth = {t: masklets.union_rle(t) for t in frames}
    visible = tuple(bool(v) for v in masklets.existence())
    e = sample.expression
    return KeptGroup(sample.id, e.text, e.kind, sample.clip, spatial, visible, truth, kept)


def _rollout(rng: random.Random, sample: Sample, spatial: tuple[int, ...], step: int, skill: float) -> KeptRollout:
    total, good = sample.clip.num_frames, min(1.0, max(0.0, rng.gauss(skill, 0.2)))
    stop = StopReason.ANSWERED if good > 0.3 else rng.choice(STOPS)
    turns, key = [], total // 2
    for n in range(rng.choice((1, 2, 2, 3))):
        start = rng.randrange(total // 2)
        end = min(total - 1, start + rng.randrange(2, total // 2 + 2))
        chosen = Grounding(start, end, rng.randrange(start, end + 1))
        shown = (
            tuple(sorted({*spatial, *range(0, total, max(1, total // 6))})) if n == 0 else (key, *range(start, end, 2))
        )
        last = stop is StopReason.ANSWERED
        tag = "answer" if last else "select"
        thinking = f"Step 1: {' '.join(rng.choices(WORDS, k=30))}. Step 2: {' '.join(rng.choices(WORDS, k=25))}."
        body = f'<VTG>{{"start": {chosen.start}, "end": {chosen.end}, "keyframe": {chosen.keyframe}}}</VTG>'
        text = f"<think>{thinking}</think><{tag}>{body} <RefSeg> [SEG] </RefSeg></{tag}>"
        masks = {t: _moved(sample, t, 1.0 - good) for t in {*spatial, key}}
        turns.append(KeptTurn(text, Action(tag), chosen, key, shown[:10], masks))
        key = chosen.keyframe
    if stop is StopReason.BAD_ACTION:
        turns[-1] = KeptTurn("I see a shape & no tag <b>", None, None, key, turns[-1].shown, {})
    rewards = {"mask_iou": good, "keyframe_iou": good * rng.uniform(0.8, 1.0), "temporal_iou": rng.random() * skill}
    rewards["strict_format"] = -1.0 if stop is StopReason.BAD_ACTION else 1.0
    rewards["total"] = sum(rewards.values())
    numbers = LogProbs(
        rng.randrange(60, 160), -rng.random(), -6 * rng.random(), rng.random(), 0.003, 0.01 * rng.random()
    )
    return KeptRollout(stop, tuple(turns), rewards, {"video": good}, 0.0, numbers, (step - 1, step - 1))


def _moved(sample: Sample, t: int, off: float) -> RLE:
    from rewards.segmenter.masks import encode_rles

    assert sample.masklets is not None
    union = sample.masklets.union(t)
    by = int(0.25 * off * sample.clip.width)
    return encode_rles(np.roll(union, (by // 2, by), (0, 1))[None])[0]


def _metrics(rng: random.Random, groups: Sequence[KeptGroup], skill: float) -> dict[str, Any]:
    rollouts = [r for g in groups for r in g.rollouts]
    out: dict[str, Any] = {f"reward/{k}": float(np.mean([r.rewards[k] for r in rollouts])) for k in rollouts[0].rewards}
    out["reward/mean"] = out.pop("reward/total")
    out |= {f"stop/{s.value}": sum(r.stop is s for r in rollouts) / len(rollouts) for s in set(STOPS)}
    out |= {"actor/kl_loss": 0.002 + 0.004 * skill * rng.random(), "timing_s/gen": 4 + rng.random()}
    return out | {"timing_s/update_actor": 3 + rng.random(), "timing_s/step": 8 + rng.random()}
