"""SAM 2 behind four verbs: preprocess, encode, decode, propagate.

Shape legend: F frames, M masks to decode, B items to propagate, C width of a ``[SEG]`` state, S side of the encoder's
input, h = w = S / 4 side of mask logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from rewards.segmenter.build import DECODER_OPTIONS, NEEDED_OPTIONS, build_sam2
from rewards.segmenter.config import SegmenterConfig
from rewards.segmenter.features import Features, FeatureSource, Levels, concat_levels
from rewards.segmenter.heads import HeadOutput, embed_states, run_heads
from rewards.segmenter.preprocess import preprocess
from rewards.segmenter.propagate import PromptBatch, Propagation, Step

DECODER_PARTS = ("sam_prompt_encoder", "sam_mask_decoder")
"""What reinforcement learning trains; image encoder and memory stay frozen (SPEC 2.2)."""


class Prompts(TypedDict, total=False):
    """What :meth:`Segmenter.propagation_steps` takes by keyword."""

    states: Tensor | None
    boxes: Tensor | None
    clip_size: tuple[int, int] | None
    videos: Sequence[Sequence[int]] | None
    max_batch: int


class Segmenter(nn.Module):
    """Holds SAM 2 as ``sam2_model``, so that its parameters keep the names of released checkpoints."""

    def __init__(self, config: SegmenterConfig, sam2_model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.sam2_model: Any = build_sam2(config) if sam2_model is None else sam2_model
        for module, options in ((self.sam2_model, NEEDED_OPTIONS), (self.sam2_model.sam_mask_decoder, DECODER_OPTIONS)):
            for option, needed in options.items():
                if (found := getattr(module, option)) != needed:
                    raise ValueError(f"SAM 2 option {option} is {found!r}; the segmenter needs {needed!r}")

    @property
    def device(self) -> torch.device:
        return self.sam2_model.no_mem_embed.device  # type: ignore[no-any-return]

    @property
    def prompt_width(self) -> int:
        """C."""
        return int(self.sam2_model.hidden_dim)

    @property
    def logit_size(self) -> int:
        """h = w."""
        return int(self.sam2_model.image_size) // 4

    def preprocess(self, frames: Sequence[Image.Image | NDArray[np.uint8]]) -> Tensor:
        """F frames (PIL, or H x W x 3 uint8) -> (F, 3, S, S) float32 on the CPU."""
        return preprocess(frames, self.sam2_model.image_size)

    def encode(self, pixels: Tensor, chunk: int = 8) -> Features:
        """(F, 3, S, S) -> features of F frames, ``chunk`` at a time, on this module's device.

        Follows the caller's gradient mode. The mask decoder's own projections of the fine levels are part of it, so
        features must be encoded again after the decoder has changed.
        """
        return self._features([self._project(self._levels(group)) for group in self._chunks(pixels, chunk)])

    @torch.no_grad()
    def encode_frozen(self, pixels: Tensor, chunk: int = 8) -> list[Levels]:
        """(F, 3, S, S) -> F single-frame frozen levels that own their memory.

        No training of the decoder changes them: :meth:`project` makes of them, as often as it has changed, what
        :meth:`encode` would make of the pixels.
        """
        return [
            (fine[i : i + 1].clone(), middle[i : i + 1].clone(), coarse[i : i + 1].clone())
            for fine, middle, coarse in (self._levels(group) for group in self._chunks(pixels, chunk))
            for i in range(fine.shape[0])
        ]

    def project(self, frozen: Sequence[Levels]) -> Features:
        """Frozen levels of one or more frames each -> features of all of them.

        Follows the caller's gradient mode. Each entry is projected by itself: what shares a batch changes no number.
        """
        return self._features([self._project(levels) for levels in frozen])

    def _levels(self, pixels: Tensor) -> Levels:
        with self.autocast():
            fine, middle, coarse = self.sam2_model.image_encoder(pixels.to(self.device))["backbone_fpn"][-3:]
        return fine, middle, coarse

    def _project(self, frozen: Levels) -> Levels:
        decoder = self.sam2_model.sam_mask_decoder
        with self.autocast():
            return decoder.conv_s0(frozen[0]), decoder.conv_s1(frozen[1]), frozen[2]

    def _features(self, parts: Sequence[Levels]) -> Features:
        levels = concat_levels(parts)
        position = self.sam2_model.image_encoder.neck.position_encoding(levels[2][:1])
        return Features(levels, position.to(levels[2].dtype))

    @staticmethod
    def _chunks(pixels: Tensor, size: int) -> Sequence[Tensor]:
        if pixels.shape[0] == 0:
            raise ValueError("encode: no frames")
        return pixels.split(size)

    def decode(self, features: Features, frame_index: Tensor | Sequence[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of M states on single frames (SPEC 2.2), differentiable in the states and the mask decoder.

        Args:
            frame_index: (M,) rows of ``features``.
            states: (M, C).
        Returns:
            (M, h, w) float32 logits of the candidate with the best predicted IoU, and (M,) that IoU.
        """
        head = self.decode_candidates(features, frame_index, states)
        return head.logits, head.iou

    def decode_candidates(self, features: Features, frame_index: Tensor | Sequence[int], states: Tensor) -> HeadOutput:
        """Like :meth:`decode`, with all three candidates and the object score, for training."""
        self._check_states(states, len(frame_index))
        levels = features.gather(frame_index)
        with self.autocast():
            image = levels[2] + self.sam2_model.no_mem_embed.reshape(1, -1, 1, 1)
            prompt = embed_states(self.sam2_model, states)
            return run_heads(self.sam2_model, image, levels, prompt, gate=False)

    @torch.no_grad()
    def propagate(self, features: FeatureSource, keyframes: Sequence[int], **prompts: Unpack[Prompts]) -> Tensor:
        """(B, T, h, w) float32 logits on the CPU: every item over the whole clip from its own keyframe.

        Arguments as for :meth:`propagation_steps`, which does not keep all T frames.
        """
        out = torch.empty(len(keyframes), features.num_frames, self.logit_size, self.logit_size)
        for step in self.propagation_steps(features, keyframes, **prompts):
            out[step.items, step.frames] = step.head.logits.cpu()
        return out

    def propagation_steps(
        self,
        features: FeatureSource,
        keyframes: Sequence[int],
        *,
        states: Tensor | None = None,
        boxes: Tensor | None = None,
        clip_size: tuple[int, int] | None = None,
        videos: Sequence[Sequence[int]] | None = None,
        max_batch: int = 64,
    ) -> Iterator[Step]:
        """Propagate B items, yielding each (item, frame) once; follows the caller's gradient mode.

        Items are prompted with states, with boxes, or with both.

        Args:
            keyframes: (B,) frame of each item's prompt.
            states: (B, C), injected in every frame.
            boxes: (B, 4) x0, y0, x1, y1 in pixels of the clip, with ``clip_size`` = (H, W).
            videos: (B, K) rows of ``features`` that are each item's video; keyframes and the steps' frames then count
                along it. None: all of them, in order.
        """
        if states is not None:
            self._check_states(states, len(keyframes))
        if boxes is not None:
            if clip_size is None or boxes.shape != (len(keyframes), 4):
                raise ValueError(
                    f"propagate: boxes must be ({len(keyframes)}, 4) and come with clip_size; "
                    f"found {tuple(boxes.shape)} and {clip_size}"
                )
            # divided before multiplied, as the stock predictor does, so that the corners are equal to the last bit
            height, width = clip_size
            extent = torch.tensor([width, height, width, height], dtype=torch.float32)
            boxes = boxes.detach().float().cpu() / extent * self.sam2_model.image_size
        propagation = Propagation(
            self.sam2_model,
            features,
            keyframes,
            PromptBatch(states, boxes),
            videos=videos,
            gate=self.config.propagation_gate,
            max_batch=max_batch,
            autocast=self.autocast,
        )
        return propagation.steps()

    def freeze_all_but_decoder(self) -> None:
        """Let gradients reach the prompt encoder and the mask decoder only."""
        trainable = {id(p) for p in self.trainable_parameters()}
        for p in self.parameters():
            p.requires_grad_(id(p) in trainable)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Prompt encoder and mask decoder."""
        return [p for part in DECODER_PARTS for p in getattr(self.sam2_model, part).parameters()]

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """CPU copies of prompt encoder and mask decoder, keyed by sam2's own names."""
        return {
            name: value.detach().cpu().clone()
            for name, value in self.sam2_model.state_dict().items()
            if name.split(".", 1)[0] in DECODER_PARTS
        }

    def load_decoder_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Replace prompt encoder and mask decoder; buffers may be left out, as they never change.

        Raises:
            ValueError: if a parameter is missing, or a name belongs to another part.
        """
        names = {f"{part}.{k}" for part in DECODER_PARTS for k in getattr(self.sam2_model, part).state_dict()}
        needed = {f"{part}.{k}" for part in DECODER_PARTS for k, _ in getattr(self.sam2_model, part).named_parameters()}
        if wrong := sorted((needed - set(weights)) | (set(weights) - names)):
            raise ValueError(f"decoder weights: {len(wrong)} keys missing or unknown, first {wrong[0]!r}")
        self.sam2_model.load_state_dict(weights, strict=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where ``compute_dtype`` asks for it; otherwise whatever the caller has set."""
        if self.config.compute_dtype == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _check_states(self, states: Tensor, count: int) -> None:
        if states.shape != (count, self.prompt_width):
            raise ValueError(f"states must be ({count}, {self.prompt_width}); found {tuple(states.shape)}")
