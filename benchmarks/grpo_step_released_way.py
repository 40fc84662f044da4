"""The released trainer's way through an RL step, beside ours: ``python benchmarks/grpo_step_released_way.py --json F``.

Re-created from its description, not its code: Hugging Face ``generate`` inside the trainer on a group of 4 at a time,
then log-probs, rewards, reference and update one sequence at a time, each encoding its own pictures and SAM 2 frames;
full float32 logits, gradient checkpointing. Same policy, prompts, pictures and lengths as ``benchmarks/grpo_step.py``;
kinder than the original in that weights and optimiser are plain bfloat16 on one GPU, without ZeRO. A few groups and
sequences are timed and scaled up to the step. ``ratio`` is its step over ours, which is read from ``--ours`` or run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.common import environment_facts, write_json
from benchmarks.grpo_shapes import step_recipe

if TYPE_CHECKING:
    import torch

    from rollout.types import Sample
    from verl_ext.recipe import Recipe

GENERATED_AT_ONCE = 4
"""Rollouts in one call of ``generate``."""
PHASES = ("rollout", "seg_states", "pool", "reference", "update")


@dataclass
class Rollout:
    """One sequence, on the device."""

    sample: Sample
    inputs: dict[str, Any]
    """What the policy's forward takes: (1, L) ids and mask, the pictures' patches and grids."""
    prompt: int
    """Tokens that are not scored."""
    frames: list[int]
    """SAM 2's frames: the spatial ones, then the keyframe."""
    old: torch.Tensor | None = None
    """(L - 1,) log-probs of the first pass."""
    reference: torch.Tensor | None = None


class ReleasedStep:
    """Holds policy, reference and optimiser as the released trainer does, and does its phases."""

    def __init__(self, recipe: Recipe, reply_tokens: int | None, rollout_tokens: int | None) -> None:
        """A reply has ``reply_tokens``; without, what makes a rollout ``rollout_tokens`` long, or a turn's most."""
        import torch
        from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

        from rollout.chat_format import ChatFormat
        from verl_ext.policy.checkpoint import load_policy
        from verl_ext.policy.forbidden import forbid_tokens

        self.recipe, self.device = recipe, recipe.device
        self.processor = AutoProcessor.from_pretrained(recipe.policy.path)
        self.chat = ChatFormat.from_processor(self.processor)
        dtype = getattr(torch, recipe.policy.dtype)
        self.policy, self.reference = (load_policy(recipe.policy.path).to(self.device, dtype) for _ in range(2))
        for model in (self.policy, self.reference):
            forbid_tokens(model, sorted(self.chat.forbidden), len(self.processor.tokenizer))
        self.policy.gradient_checkpointing_enable({"use_reentrant": False})
        self.speaker = copy.copy(self.policy)  # the same weights without the head, as ``generate`` wants them
        self.speaker.__class__ = Qwen3VLForConditionalGeneration
        self.reference.requires_grad_(False).eval()
        self._reply, self._whole = reply_tokens, rollout_tokens
        self.prompt_tokens = self.reply_tokens = 0
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay)

    def rollout(self, sample: Sample, count: int = GENERATED_AT_ONCE) -> list[Rollout]:
        """``count`` replies to the first message about ``sample``."""
        import torch

        from rollout.conversation import Conversation
        from rollout.environment import make_environment
        from rollout.types import StopReason
        from verl_ext.recipe.rollout_settings import conversation_limits, environment_of

        environment = make_environment(*_of(environment_of(self.recipe), sample, self.chat.factor))
        conversation = Conversation(
            self.processor.tokenizer, self.chat, sample.clip, **conversation_limits(self.recipe)
        )
        opening = environment.begin()
        if isinstance(opening, StopReason) or not conversation.append_user(opening):
            raise SystemExit(f"{sample.id}: its first message does not fit; lower rollout.budgets")
        made = self.processor.image_processor(images=conversation.images(), return_tensors="pt")
        pixels, grids = made["pixel_values"].to(self.device), made["image_grid_thw"].to(self.device)
        ids = torch.tensor([conversation.token_ids] * count, device=self.device)
        self.prompt_tokens = ids.shape[1]
        left = max(1, self._whole - self.prompt_tokens) if self._whole else self.recipe.rollout.turn_length
        self.reply_tokens = self._reply or left
        self.policy.eval()
        with torch.no_grad():
            whole = self.speaker.generate(
                **self._inputs(ids, pixels.repeat(count, 1), grids.repeat(count, 1)),
                min_new_tokens=self.reply_tokens,
                max_new_tokens=self.reply_tokens,
                do_sample=True,
                temperature=self.recipe.rollout.temperature,
                top_p=self.recipe.rollout.top_p,
                top_k=0,
            )
        spatial = list(environment.episode(StopReason.LENGTH).spatial_frames)
        frames = [*spatial, sample.clip.num_frames // 2]
        return [Rollout(sample, self._inputs(row[None], pixels, grids), ids.shape[1], frames) for row in whole]

    def _inputs(self, ids: torch.Tensor, pixels: torch.Tensor, grids: torch.Tensor) -> dict[str, Any]:
        import torch

        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.chat.image_pad).int(),
            "pixel_values": pixels.to(self.policy.dtype),
            "image_grid_thw": grids,
        }

    def seg_states(self, rollout: Rollout) -> None:
        """The old log-prob pass, with the keyframe's masks."""
        import torch

        with torch.no_grad():
            rollout.old, _ = self._pass(self.policy.eval(), rollout, rollout.frames[-1:])

    def pool(self, rollout: Rollout) -> None:
        """Masks of its own frames, for the rewards."""
        import torch

        segmenter = self.policy.grounding_encoder
        found = self._seg(rollout).sum()
        if found:
            with torch.no_grad():
                features = segmenter.encode(self._frames(rollout, rollout.frames))
                index = list(range(len(rollout.frames))) * int(found)
                states = torch.zeros(len(index), segmenter.prompt_width, device=self.device)
                segmenter.decode(features, index, states)[0].cpu()

    def reference_pass(self, rollout: Rollout) -> None:
        import torch

        with torch.no_grad():
            logits = self.reference(**rollout.inputs, use_cache=False).logits
            rollout.reference = _log_probs(logits, rollout.inputs["input_ids"])

    def update(self, rollout: Rollout, sequences: int) -> None:
        """Forward and backward of one of ``sequences``; every rollout has advantage 1, which costs the same."""
        import torch

        from verl_ext.seg.losses import k3_kl, mask_bce, mask_dice

        now, masks = self._pass(self.policy.train(), rollout, rollout.frames)
        assert rollout.old is not None and rollout.reference is not None
        scored = slice(rollout.prompt - 1, None)
        ratio = (now - rollout.old)[scored].exp()
        loss = (-ratio + 0.04 * k3_kl(now, rollout.reference)[scored]).mean()
        if masks is not None and len(masks):
            truth = torch.zeros_like(masks)
            loss = loss + 0.2 * (mask_bce(masks, truth) + mask_dice(masks, truth)).mean()
        (loss / sequences).backward()

    def optimise(self) -> None:
        import torch

        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _pass(self, model: Any, rollout: Rollout, frames: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        seg = self._seg(rollout)
        more: dict[str, Any] = {}
        if count := int(seg.sum()):
            pairs = [(n, f) for n in range(count) for f in range(len(frames))]
            state, frame = (torch.tensor(x, device=self.device) for x in zip(*pairs, strict=True))
            more = {"sam_pixels": self._frames(rollout, frames), "pair_state": state, "pair_frame": frame}
        out = model(**rollout.inputs, seg_mask=seg, use_cache=False, **more)
        return _log_probs(out.logits, rollout.inputs["input_ids"]), out.mask_logits

    def _seg(self, rollout: Rollout) -> torch.Tensor:
        ids = rollout.inputs["input_ids"]
        seg = ids == self.chat.seg
        seg[:, : rollout.prompt] = False
        return seg

    def _frames(self, rollout: Rollout, frames: Sequence[int]) -> torch.Tensor:
        from rollout.frames import load_frames

        segmenter = self.policy.grounding_encoder
        return segmenter.preprocess(load_frames(rollout.sample.clip, frames)).to(self.device)  # type: ignore[no-any-return]


def _of(named: tuple[str, dict[str, Any]], sample: Sample, factor: int) -> tuple[str, Sample, dict[str, Any], int]:
    return named[0], sample, named[1], factor


def _log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(1, L, V), (1, L) -> (L - 1,) through all logits in float32."""
    return logits[0, :-1].float().log_softmax(dim=-1).gather(1, ids[0, 1:, None])[:, 0]


def measure(
    recipe: Recipe, groups: int, sequences: int, reply_tokens: int | None = None, rollout_tokens: int | None = None
) -> dict[str, Any]:
    """Seconds by phase of a step, from ``groups`` calls of ``generate`` and ``sequences`` single passes."""
    import torch

    from verl_ext.run.sources import load_samples

    step = ReleasedStep(recipe, reply_tokens, rollout_tokens)
    samples = load_samples(recipe)[: recipe.trainer.prompts_per_step]
    total = recipe.rollouts_per_step
    groups, sequences = min(groups, len(samples)), min(sequences, total)
    rollouts = step.rollout(samples[0])  # warms up
    first = rollouts[0]
    for run in (step.seg_states, step.pool, step.reference_pass, lambda r: step.update(r, total)):
        run(first)

    def seconds(run: Callable[[Any], Any], over: Sequence[Any], of: float) -> float:
        _wait(recipe.device)
        began = time.perf_counter()
        for x in over:
            run(x)
        _wait(recipe.device)
        return (time.perf_counter() - began) / len(over) * of

    kept: list[Rollout] = []
    found = {"rollout": seconds(lambda s: kept.extend(step.rollout(s)), samples[:groups], total / GENERATED_AT_ONCE)}
    timed = (kept * (sequences // len(kept) + 1))[:sequences]
    for name, run in (("seg_states", step.seg_states), ("pool", step.pool), ("reference", step.reference_pass)):
        found[name] = seconds(run, timed, total)
    found["update"] = seconds(lambda r: step.update(r, total), timed, total)
    found["update"] += seconds(lambda _: step.optimise(), [None], 1)
    found = {name: round(found[name], 3) for name in PHASES}
    return {
        "step_seconds": found | {"step": round(sum(found.values()), 3)},
        "timed": {"generate_calls": groups, "sequences": len(timed), "scaled_to_rollouts": total},
        "rollouts_per_step": total,
        "prompt_tokens": step.prompt_tokens,
        "reply_tokens": step.reply_tokens,
        "peak_gib": torch.cuda.max_memory_allocated() / (1 << 30) if recipe.device == "cuda" else None,
    }


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def our_step(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What ``benchmarks/grpo_step.py`` found: read, or run in a process of its own."""
    file = Path(args.ours) if args.ours else work / "ours.json"
    if not args.ours:
        command = ["--device", args.device, "--policy", args.policy, "--work", str(work), "--json", str(file)]
        subprocess.run([sys.executable, "-m", "benchmarks.grpo_step", *command], check=True)
    figures: dict[str, Any] = json.loads(file.read_text())
    arms = figures.get("arms", {})
    best = min(arms.values(), key=lambda arm: arm["step_seconds"]["step"]) if arms else figures
    return {**figures, **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--policy", choices=["tiny", "2b"], default="tiny")
    parser.add_argument("--ours", help="figures of benchmarks/grpo_step.py on the same machine; without, it is run")
    parser.add_argument("--groups", type=int, default=3, help="calls of generate that are timed")
    parser.add_argument("--sequences", type=int, default=8, help="sequences that are timed in the other phases")
    parser.add_argument("--reply-tokens", type=int, help="tokens of a reply; by default our step's mean")
    parser.add_argument("--work", default="runs/benchmarks/grpo_step", help="folder for data and policy")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    args = parser.parse_args()
    work = Path(args.work).resolve()
    recipe, _ = step_recipe(work, args.policy, args.device, work / "released_way", args.set)
    ours = our_step(args, work)
    tokens = ours.get("tokens_per_step")
    length = round(tokens / ours["rollouts_per_step"]) if tokens else None
    figures = measure(recipe, args.groups, args.sequences, args.reply_tokens, length)
    figures["ours"] = {key: ours.get(key) for key in ("step_seconds", "date", "device", "tokens_per_step")}
    figures["ratio"] = figures["step_seconds"]["step"] / ours["step_seconds"]["step"]
    for phase, seconds in figures["step_seconds"].items():
        print(f"  {phase:12s} {seconds:8.3f}   ours {ours['step_seconds'].get(phase, 0.0):8.3f}")
    print(f"ratio {figures['ratio']:.1f}")
    if args.json:
        facts = {"benchmark": "grpo_step_released_way", **environment_facts(args.device), "policy": args.policy}
        write_json(args.json, facts | figures)


if __name__ == "__main__":
    main()
