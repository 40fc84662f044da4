"""Are rows right on this GPU? ``python benchmarks/packing_check.py [--json FILE]``: a minute; exits with 1 if not.

Kernels against float32; a mid-sized random Qwen3-VL and Qwen2.5-VL in bfloat16, rows of groups against single
sequences, both against float32; the importance ratio of a first update, which must be 1 to the bit, checkpointed and
not, and compiled with ``--compile``. Prints a line for each check, beginning with @@.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.common import environment_facts, write_json
from verl_ext.packing.attention import attend
from verl_ext.packing.deal import deal_rows, fewest_rows, fitting_units
from verl_ext.packing.dialogue import Dialogue, find_groups
from verl_ext.packing.forward import Scoring, row_log_probs, row_states
from verl_ext.packing.logprob import linear_log_prob
from verl_ext.packing.prepare import compile_layers, use_rows
from verl_ext.packing.row import Row, lay_out
from verl_ext.packing.vision import Tower, offsets

DEVICE, BF16 = "cuda", torch.bfloat16
CHECKS: list[dict[str, Any]] = []
BEGAN = time.perf_counter()
IMAGE, WORDS = 1003, 1000


def check(name: str, ok: bool, **facts: Any) -> None:
    CHECKS.append({"check": name, "ok": bool(ok), **facts})
    said = " ".join(f"{k}={v:.2e}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())
    print(f"@@ {time.perf_counter() - BEGAN:5.0f}s {'ok ' if ok else 'BAD'} {name} {said}", flush=True)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def attention() -> None:
    """The cascade's kernels, forward and backward, against its plain operations in float32 on the CPU."""
    torch.manual_seed(0)
    prompts, answers, alone = [300, 77], [[50, 1, 129], [200, 3, 64]], [90]
    blocks = [*prompts, *(n for group in answers for n in group), *alone]
    queries = [sum(group) for group in answers]
    q, k, v = (torch.randn(sum(blocks), h, 128).to(BF16).float() for h in (16, 8, 8))
    grad = torch.randn_like(q).to(BF16).float()
    numbers = (max(blocks), max(queries), max(prompts), sum(prompts), sum(queries), True, 128**-0.5)
    results = []
    for device, dtype in (("cpu", torch.float32), (DEVICE, BF16)):
        x = [t.to(device, dtype).requires_grad_() for t in (q, k, v)]
        out, _ = attend(*x, *(offsets(n).to(device) for n in (blocks, queries, prompts)), *numbers)
        results.append([out, *torch.autograd.grad(out, x, grad.to(device, dtype))])
    errors = [relative(b.cpu().float(), a) for a, b in zip(*results, strict=True)]
    check("attention, gradients of q, k, v", max(errors) < 1e-2, worst=max(errors))


def head() -> None:
    """Log-prob and entropy kernels against log_softmax in float64, a few tokens forbidden, at 151 936 tokens."""
    torch.manual_seed(0)
    m, width, vocabulary = 300, 256, 151936
    h = torch.randn(m, width, device=DEVICE).to(BF16)
    w = (torch.randn(vocabulary, width, device=DEVICE) * 0.1).to(BF16)
    y = torch.randint(0, 1000, (m,), device=DEVICE)
    banned = torch.zeros(vocabulary, dtype=torch.uint8, device=DEVICE)
    banned[151669:] = 1
    banned[1234] = 1
    weights = torch.randn(m, device=DEVICE)
    x, u = h.double().requires_grad_(), w.double().requires_grad_()
    logits = (x @ u.T).masked_fill(banned.bool(), -1e9) / 0.7
    spread = logits.log_softmax(-1)
    want = spread.gather(1, y[:, None])[:, 0]
    entropy = -(spread.exp() * spread).sum(1)
    wanted = torch.autograd.grad((want * weights).sum(), (x, u))
    for keep in (True, False):
        a, b = h.clone().requires_grad_(), w.clone().requires_grad_()
        found, spread_of = linear_log_prob(a, b, y, banned, 0.7, keep)
        grads = torch.autograd.grad((found * weights).sum(), (a, b))
        gap = float((found - want).abs().max())
        gap_entropy = float((spread_of - entropy).abs().max())
        worst = max(relative(p, q) for p, q in zip(grads, wanted, strict=True))
        ok = gap < 5e-2 and gap_entropy < 5e-2 and worst < 1e-2
        check(f"log-prob kernel, logits {'kept' if keep else 'again'}", ok, gap=gap, entropy=gap_entropy, grads=worst)


def policy(kind: str, dtype: torch.dtype) -> Any:
    """A random one of middle size: grouped heads, deepstack or windows."""
    import transformers as t

    torch.manual_seed(1)
    text = {
        "vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
        "intermediate_size": 1024, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    vision = {
        "depth": 4,
        "hidden_size": 256,
        "num_heads": 4,
        "intermediate_size": 512,
        "patch_size": 16,
        "out_hidden_size": 512,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]}
    tokens = {
        "image_token_id": IMAGE,
        "vision_start_token_id": 1001,
        "vision_end_token_id": 1002,
        "video_token_id": 1004,
    }
    if kind == "qwen3_vl":
        config: Any = t.Qwen3VLConfig(
            text_config=text | {"head_dim": 64, "rope_parameters": rope | {"mrope_interleaved": True}},
            vision_config=vision | {"deepstack_visual_indexes": [0, 1, 2], "num_position_embeddings": 2304}, **tokens,
        )  # fmt: skip
        cls: Any = t.Qwen3VLForConditionalGeneration
    else:
        config = t.Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": rope, "use_sliding_window": False},
            vision_config=vision | {"window_size": 64, "fullatt_block_indexes": [1, 3]}, **tokens,
        )  # fmt: skip
        cls = t.Qwen2_5_VLForConditionalGeneration
    return cls._from_config(config, attn_implementation="sdpa").to(DEVICE, dtype).train()


def dialogues(rng: random.Random, n: int, groups: int) -> list[Dialogue]:
    """Groups of ``n``: a prompt with six pictures, two turns, pictures between them."""
    out = []
    for _ in range(groups):
        prompt = _said(rng, 200, [(20, 36)] * 2 + [(6, 12)] * 4)
        for _ in range(n):
            parts = [prompt, _said(rng, rng.randint(40, 200), []), _said(rng, 8, [(6, 12), (14, 28)])]
            parts.append(_said(rng, rng.randint(40, 200), []))
            ids = torch.tensor([t for p in parts for t in p[0]])
            grids = [g for p in parts for g in p[1]]
            scored = torch.cat([torch.full((len(p[0]),), k in (1, 3)) for k, p in enumerate(parts)])
            pixels = torch.cat([p[2] for p in parts])
            d = Dialogue(ids, _positions(ids, grids), scored, len(prompt[0]), pixels, torch.tensor(grids))
            d.prompt_tokens = int((ids[: d.prompt] == IMAGE).sum())
            out.append(d)
    return out


def _said(rng: random.Random, words: int, grids: list[tuple[int, int]]) -> Any:
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    pixels = [torch.randn(h * w, 1536, generator=generator) for h, w in grids]
    ids = [t for h, w in grids for t in (1001, *[IMAGE] * (h * w // 4), 1002)]
    ids += [rng.randrange(WORDS) for _ in range(words)]
    return ids, [(1, *g) for g in grids], torch.cat(pixels) if pixels else torch.zeros(0, 1536)


def _positions(ids: torch.Tensor, grids: Sequence[tuple[int, int, int]]) -> torch.Tensor:
    out, start, i, left = [], 0, 0, iter(grids)
    while i < len(ids):
        if ids[i] == IMAGE:
            _, h, w = (side // 2 for side in next(left))
            where = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(h), torch.arange(w), indexing="ij"))
            out.append(where.flatten(1) + start)
            start, i = start + max(h, w), i + h * w
        else:
            out.append(torch.full((3, 1), start))
            start, i = start + 1, i + 1
    return torch.cat(out, 1)


def one_by_one(model: Any, found: Sequence[Dialogue], weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs, and the gradient of their weighted sum as one vector."""
    model.zero_grad(set_to_none=True)
    out, start = [], 0
    for d in found:
        inputs: Any = {"input_ids": d.ids[None], "position_ids": d.positions[:, None], "image_grid_thw": d.grids}
        inputs["pixel_values"] = d.pixels
        logits = model(**{k: v.to(DEVICE) for k, v in inputs.items()}, use_cache=False).logits[0].float()
        at = d.scored.nonzero()[:, 0].to(DEVICE)
        logp = logits[at - 1].log_softmax(-1).gather(1, d.ids.to(DEVICE)[at][:, None])[:, 0]
        (logp * weights[start : start + len(logp)]).sum().backward()
        start += len(logp)
        out.append(logp.detach())
    return torch.cat(out), gradient(model)


def gradient(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


def make_rows(model: Any, found: Sequence[Dialogue], share: bool) -> list[tuple[Row, list[int]]]:
    tower = Tower.of(model.config)
    groups = find_groups(found, tower.merge) if share else [[i] for i in range(len(found))]
    units = fitting_units(groups, found, 4096)
    dealt = deal_rows(units, found, fewest_rows(units, found, 4096))
    return [(lay_out(row, found, tower).to(DEVICE), [i for u in row for i in u]) for row in dealt]


def score(model: Any, row: Row, keep: bool) -> torch.Tensor:
    banned = torch.zeros(model.lm_head.weight.shape[0], dtype=torch.uint8, device=DEVICE)
    return row_log_probs(model, row_states(model, row), row, Scoring(banned, 1.0, keep))[0]


def models(compiled: bool) -> None:
    rng = random.Random(0)
    found = dialogues(rng, 4, 4)
    counts = [int(d.scored.sum()) for d in found]
    weights = torch.randn(sum(counts), generator=torch.Generator().manual_seed(0)).to(DEVICE) / sum(counts)
    parts = weights.split(counts)
    for kind in ("qwen3_vl", "qwen2_5_vl"):
        exact = policy(kind, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = False
        want, want_gradient = one_by_one(exact, found, weights)
        model = policy(kind, BF16)
        model.load_state_dict(exact.state_dict())
        single, single_gradient = one_by_one(model, found, weights)
        base = float((single - want).square().mean().sqrt()), relative(single_gradient, want_gradient)
        use_rows(model, half=True, device=DEVICE)
        if compiled:
            compile_layers(model)
        for way in ("packed", "group"):
            rows = make_rows(model, found, way == "group")
            for checkpointed in (False, True):
                if checkpointed:
                    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                else:
                    model.gradient_checkpointing_disable()
                model.zero_grad(set_to_none=True)
                logps: dict[int, torch.Tensor] = {}
                equal = True
                for row, order in rows:
                    model.eval()
                    with torch.no_grad():
                        old = score(model, row, True)
                    model.train()
                    now = score(model, row, not checkpointed)
                    equal &= torch.equal(old, now.detach())
                    pieces = now.split([counts[i] for i in order])
                    sum((x * parts[i]).sum() for x, i in zip(pieces, order, strict=True)).backward()  # type: ignore[union-attr]
                    logps |= {i: x.detach() for x, i in zip(pieces, order, strict=True)}
                gap = float((torch.cat([logps[i] for i in range(len(found))]) - want).square().mean().sqrt())
                error = relative(gradient(model), want_gradient)
                name = f"{kind} {way}{' checkpointed' if checkpointed else ''}{' compiled' if compiled else ''}"
                check(f"{name}: ratio exactly 1", equal)
                check(
                    f"{name}: as near to float32 as single sequences", gap < 1.2 * base[0] and error < 1.2 * base[1],
                    logp_rms=gap, single=base[0], gradient=error, single_gradient=base[1],
                )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write what was found here")
    parser.add_argument("--compile", action="store_true", help="also with compiled layers (a minute more)")
    args = parser.parse_args()
    attention()
    head()
    models(compiled=False)
    if args.compile:
        models(compiled=True)
    ok = all(c["ok"] for c in CHECKS)
    print(f"@@ {'all right' if ok else 'NOT right'}: {len(CHECKS)} checks in {time.perf_counter() - BEGAN:.0f} s")
    if args.json:
        write_json(args.json, {"benchmark": "packing_check", **environment_facts("cuda"), "ok": ok, "checks": CHECKS})
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
