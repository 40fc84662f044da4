"""The arm that ``eval_speed`` compares with: one expression after another, Hugging Face and sam2's own predictor."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.common import write_json
from benchmarks.eval_speed_arms import WARM_UP, figures, inference_settings, make_samples, said
from eval.inference.pipeline import record_of
from eval.inference.seg_states import pixels_of, seg_states
from eval.inference.worker import converse
from rollout.chat_format import ChatFormat
from rollout.episode import Generated, final_keyframe
from rollout.types import Sample

if TYPE_CHECKING:
    from PIL.Image import Image


class Loop:
    """A policy and a predictor on one device."""

    def __init__(self, folder: Path, s: Mapping[str, Any]) -> None:
        from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

        from rewards.segmenter import build_sam2
        from verl_ext.policy.checkpoint import load_head_config, load_policy
        from verl_ext.scoring.pool import segmenter_state

        self.s, self.settings, self.device = s, inference_settings(s), s["device"]
        self.processor = AutoProcessor.from_pretrained(folder)
        self.chat = ChatFormat.from_processor(self.processor)
        self.model = load_policy(folder, getattr(torch, self.settings.dtype), self.device)
        self.plain = copy.copy(self.model)  # the same weights under Hugging Face's own forward
        self.plain.__class__ = Qwen3VLForConditionalGeneration
        self.typed = "mm_token_type_ids" in inspect.signature(Qwen3VLForConditionalGeneration.forward).parameters
        self.config = load_head_config(folder)
        self.predictor: Any = build_sam2(self.config, stock_predictor=True)
        self.predictor.load_state_dict(segmenter_state(folder))
        self.predictor.to(self.device)

    def run(self, sample: Sample) -> str:
        """One expression from frames on disk to a line of JSON."""
        from eval.inference.dialogue import Dialogue

        episode, conversation = asyncio.run(
            converse(sample, self.settings, None, self.processor.tokenizer, self.chat, self._generate)
        )
        pixels = pixels_of(self.processor, conversation)
        states = seg_states(self.model, conversation, episode, pixels, self.device)
        state = next((s for s in reversed(states) if s is not None), None)
        assert state is not None and len(episode.turns) == self.s["turns"]
        rles = self._propagate(sample, final_keyframe(episode), torch.from_numpy(state).to(self.device))
        return json.dumps(record_of(sample, Dialogue(episode, states, 0), rles, None).to_dict())

    async def _generate(
        self,
        prompt_token_ids: list[int],
        images: list[Image],
        max_tokens: int,
        stop_token_ids: list[int],
        sampling: Mapping[str, Any],
    ) -> Generated:
        ids = torch.tensor([prompt_token_ids], device=self.device)
        pixels = self.processor.image_processor(images=images, return_tensors="pt")
        count = self.s["tokens"]
        types = {"mm_token_type_ids": (ids == self.chat.image_pad).int()} if self.typed else {}
        with torch.inference_mode():
            out = self.plain.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **types,
                pixel_values=pixels["pixel_values"].to(self.device, self.model.dtype),
                image_grid_thw=pixels["image_grid_thw"].to(self.device),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                eos_token_id=None,
            )
        if out.shape[1] - ids.shape[1] != count:
            raise RuntimeError(f"{out.shape[1] - ids.shape[1]} tokens were decoded instead of {count}")
        return said(self.processor.tokenizer, self.chat, prompt_token_ids, self.s)

    @torch.inference_mode()
    def _propagate(self, sample: Sample, keyframe: int, state: Tensor) -> list[Any]:
        """The predictor from a fresh state, the embedding appended to its prompt in every frame."""
        from rewards.segmenter import encode_rles

        def append(module: Any, args: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return torch.cat([out[0], state[None, None].to(out[0])], dim=1), out[1]

        rles: list[Any] = [None] * sample.clip.num_frames
        hook = self.predictor.sam_prompt_encoder.register_forward_hook(append)
        try:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.config.compute_dtype == "bfloat16"):
                inference = self.predictor.init_state(video_path=str(Path(sample.clip.frames[0]).parent))
                self._add_keyframe(inference, keyframe)
                for reverse in (False, True):
                    for t, _, logits in self.predictor.propagate_in_video(
                        inference, start_frame_idx=keyframe, reverse=reverse
                    ):
                        rles[t] = encode_rles((logits[0] > 0).cpu())[0]
        finally:
            hook.remove()
        return rles

    def _add_keyframe(self, inference: Any, keyframe: int) -> None:
        """A conditioning frame without clicks, which the predictor's public calls do not offer."""
        index = self.predictor._obj_id_to_idx(inference, 1)
        out, _ = self.predictor._run_single_frame_inference(
            inference_state=inference,
            output_dict=inference["output_dict_per_obj"][index],
            frame_idx=keyframe,
            batch_size=1,
            is_init_cond_frame=True,
            point_inputs=None,
            mask_inputs=None,
            reverse=False,
            run_mem_encoder=False,
        )
        inference["temp_output_dict_per_obj"][index]["cond_frame_outputs"][keyframe] = out


def loop(s: dict[str, Any], work: Path, file: Path, seconds: float, began: float) -> None:
    """As many expressions as asked for, or as the time allows, after one to warm up."""
    from rewards.segmenter.build import hydra_untouched

    with hydra_untouched():
        arm = Loop(work / f"policy_{s['policy']}", s)
    arm.run(next(make_samples(work / "clips", s, 1, WARM_UP)))
    start = time.monotonic()
    setup = {"gpus": 1, "of": s["hf"], "setup_seconds": round(start - began, 1)}
    done = 0
    with (work / "loop.jsonl").open("w") as lines:
        for done, sample in enumerate(make_samples(work / "clips", s, s["clips"]), start=1):
            lines.write(arm.run(sample) + "\n")
            lines.flush()
            write_json(file, setup | figures(done, time.monotonic() - start))
            if done >= s["hf"] or time.monotonic() - began > seconds:
                break
