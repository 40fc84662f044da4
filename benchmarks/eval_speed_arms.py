"""The arms of ``benchmarks/eval_speed.py``, each run as a process: ``ARM FILE SETTINGS WORK SECONDS``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

from benchmarks.common import write_json
from eval.inference.dialogue import InferenceSettings
from eval.inference.worker import PolicyWorker
from rollout.episode import Generated
from rollout.types import Clip, Expression, Sample
from verl_ext.evaluation.backend import Backend

if TYPE_CHECKING:
    from PIL.Image import Image

BUDGETS = {
    "2b": {"temporal_budget": 32, "spatial_budget": 256, "keyframe_budget": 512, "prompts": "full"},
    "tiny": {"temporal_budget": 4, "spatial_budget": 8, "keyframe_budget": 12, "prompts": "brief"},
}
WARM_UP = "warm"


def replies(frames: int, turns: int) -> list[str]:
    """What is put in the place of the decoded tokens: look again, then answer."""
    vtg = json.dumps({"start": frames // 4, "end": 3 * frames // 4, "keyframe": frames // 2})
    body = f"<VTG>{vtg}</VTG><RefSeg> [SEG] </RefSeg>"
    think = "<think>Step 1: it moves. Step 2: it is bright. Step 3: the square. Action:"
    look = [f"{think} look again.</think><select>{body}</select>"] * (turns - 1)
    return [*look, f"{think} confirmed.</think><answer>{body}</answer>"]


def inference_settings(s: Mapping[str, Any]) -> InferenceSettings:
    """The papers' evaluation numbers at the published shape, a few hundred tokens at the tiny one."""
    large = s["policy"] == "2b"
    shown = {"temporal_frames": 20, "spatial_frames": 8} if large else {"temporal_frames": 4, "spatial_frames": 2}
    tokens = 8192 if large else 1536
    environment = {**shown, "frames_per_turn": 5, "max_turns": s["turns"] + 1, **BUDGETS[s["policy"]]}
    return InferenceSettings(
        environment="keyframe_exploration",
        environment_settings=environment,
        max_tokens=tokens,
        max_prompt_tokens=tokens,
        max_response_tokens=tokens,
        turn_length=max(256, s["tokens"]),
        images=48,
        backend=Backend(),
        dtype="bfloat16" if large else "float32",
        concurrency=s["seqs"] if s["device"] == "cuda" else 4,
        gpu_memory_utilization=0.45,
        enforce_eager=s["eager"],
    )


def make_samples(folder: Path, s: Mapping[str, Any], clips: int, name: str = "clip") -> Iterator[Sample]:
    """The same questions on each clip; its frames are drawn when it is reached, unless they are there."""
    for c in range(clips):
        clip = draw_clip(folder, s, c, name)
        for e in range(s["expressions"]):
            yield Sample(clip, Expression(str(e), f"the square that moves number {e}"))


def draw_clips(folder: Path, s: Mapping[str, Any], clips: int, name: str = "clip") -> list[Clip]:
    """All of them, a thread for each core: hundreds of clips would take one thread minutes."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(partial(draw_clip, folder, s, name=name), range(clips)))


def draw_clip(folder: Path, s: Mapping[str, Any], c: int, name: str) -> Clip:
    """Clip number c as JPEG frames, written once: a square over noise."""
    from PIL import Image

    height, width, side = s["height"], s["width"], s["height"] // 4
    paths = []
    (folder / f"{name}{c}").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(c).integers(0, 90, (height, width, 3), dtype=np.uint8)
    for t in range(s["frames"]):
        path = folder / f"{name}{c}" / f"{t:05d}.jpg"
        paths.append(str(path))
        if not path.exists():
            picture = noise.copy()
            x = ((t + c) * (width - side) // s["frames"]) % (width - side)
            picture[side : 2 * side, x : x + side] = (230, 200, 40)
            Image.fromarray(picture).save(path, quality=90)
    return Clip(f"{name}{c}", tuple(paths), height, width)


class ForcedWorker(PolicyWorker):
    """Decodes a fixed number of tokens a turn and says something else; its replies come from the environment."""

    async def _generate(
        self,
        prompt_token_ids: list[int],
        images: list[Image],
        max_tokens: int,
        stop_token_ids: list[int],
        sampling: Mapping[str, Any],
    ) -> Generated:
        from vllm import SamplingParams, TokensPrompt

        from eval.inference.seg_states import collapse_runs

        s = json.loads(os.environ["EVAL_SPEED_SETTINGS"])
        self._requests += 1
        params = SamplingParams(temperature=0.0, max_tokens=s["tokens"], min_tokens=s["tokens"], ignore_eos=True)
        prompt = TokensPrompt(
            prompt_token_ids=collapse_runs(prompt_token_ids, self.chat.image_pad), multi_modal_data={"image": images}
        )
        outputs = [o async for o in self._engine.generate(prompt, params, request_id=str(self._requests))]
        decoded = len(outputs[-1].outputs[0].token_ids)
        if decoded != s["tokens"]:
            raise RuntimeError(f"{decoded} tokens were decoded instead of {s['tokens']}")
        return said(self.processor.tokenizer, self.chat, prompt_token_ids, s)


def said(tokenizer: Any, chat: Any, prompt_token_ids: list[int], s: Mapping[str, Any]) -> Generated:
    """The written reply of this turn: a system and a user message end in the first prompt, two more in each later."""
    turn = prompt_token_ids.count(chat.im_end) // 2 - 1
    text = replies(s["frames"], s["turns"])[turn]
    return Generated([*tokenizer.encode(text, add_special_tokens=False), chat.im_end], None, "stop")


def prepare(s: dict[str, Any], work: Path) -> None:
    """The random policy; its tokenizer knows the prompts' words."""
    from benchmarks.grpo_shapes import make_policy
    from rollout.prompts import get_prompts

    folder = work / f"policy_{s['policy']}"
    if (folder / "config.json").is_file():
        return
    prompts = get_prompts(BUDGETS[s["policy"]]["prompts"])  # type: ignore[arg-type]
    texts = [part.text for part in prompts.system_message().parts if hasattr(part, "text")]
    texts += [*replies(s["frames"], s["turns"]), "the square that moves number 0 1 2 3 4 5 6 7"]
    make_policy(folder, s["policy"], s["device"], [{"conversations": [{"value": text}]} for text in texts])


def ours(s: dict[str, Any], work: Path, file: Path, seconds: float, gpus: int, began: float) -> None:
    """``eval.inference.run.infer`` over N times the clips on N GPUs, after a warm-up on other clips."""
    import shutil

    from eval.inference.run import infer, start_cluster

    os.environ["EVAL_SPEED_SETTINGS"] = json.dumps(s)
    settings = inference_settings(s)
    out = work / f"out_{gpus}"
    shutil.rmtree(out, ignore_errors=True)
    warm = list(make_samples(work / "clips", s, gpus, WARM_UP))
    draw_clips(work / "clips", s, s["clips"] * gpus)
    todo = list(make_samples(work / "clips", s, s["clips"] * gpus))
    cluster = start_cluster(work / f"policy_{s['policy']}", settings, s["device"], gpus, ForcedWorker)
    try:
        infer(cluster, warm, out / "warm")
        start = time.monotonic()
        seen: list[tuple[float, int]] = [(0.0, 0)]
        arm = {"gpus": gpus, "of": len(todo), "setup_seconds": round(start - began, 1)}

        def progress(done: int, total: int, what: str) -> None:
            now = time.monotonic()
            if done == seen[-1][1]:
                return
            seen.append((now - start, done))
            if done == len(todo) or now - start - arm.get("written", -9.0) > 2:
                arm["written"] = now - start
                write_json(file, arm | figures(done, now - start, "failed" in what) | steady(seen))
            if now - began > seconds:
                raise TimeoutError

        try:
            done = infer(cluster, todo, out / "timed", total=len(todo), progress=progress)
            if done.failed:
                raise RuntimeError(
                    f"{done.failed} expressions failed: {(out / 'timed' / 'failed.jsonl').read_text()[:2000]}"
                )
        except TimeoutError:
            print("out of time; what was done counts")
    finally:
        cluster.close()


def figures(done: int, seconds: float, failed: bool = False) -> dict[str, Any]:
    rate = 0.0 if failed else round(done / seconds, 4)
    return {"done": done, "seconds": round(seconds, 2), "expressions_per_second": rate}


def steady(seen: list[tuple[float, int]]) -> dict[str, Any]:
    """The rate between a tenth and nine tenths of what was done: without filling up and running dry."""
    last = seen[-1][1]
    (t0, n0), (t1, n1) = (next(x for x in seen if x[1] >= share * last) for share in (0.1, 0.9))
    return {"steady_expressions_per_second": round((n1 - n0) / (t1 - t0), 4)} if t1 > t0 else {}
