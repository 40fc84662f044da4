"""SAM 2 or SAM 3 behind four verbs: preprocess, encode, decode, propagate.

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

from rewards.segmenter.architecture import Architecture
from rewards.segmenter.config import SegmenterConfig
from rewards.segmenter.families import family, wrap
from rewards.segmenter.features import Features, FeatureSource, Levels, concat_levels
from rewards.segmenter.heads import HeadOutput, embed_states, run_heads
from rewards.segmenter.pieces import EAGER, compiled_pieces
from rewards.segmenter.propagate import PromptBatch, Propagation, Step

COMPILED_GROUP = 2
"""Frames that a compiled encoder sees at a time: one shape, so that its blocks are compiled once."""


class Prompts(TypedDict, total=False):
    """What :meth:`Segmenter.propagation_steps` takes by keyword."""

    states: Tensor | None
    boxes: Tensor | None
    points: Tensor | None
    clip_size: tuple[int, int] | None
    videos: Sequence[Sequence[int]] | None
    max_batch: int


class Segmenter(nn.Module):
    """Holds the model as ``sam2_model`` or ``sam3_model``: parameters keep the names of released checkpoints."""

    sam2_model: Any
    """There if the family is SAM 2."""
    sam3_model: Any
    """There if it is SAM 3."""

    def __init__(self, config: SegmenterConfig, model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        built = family(config.family).build(config) if model is None else model
        self.architecture: Architecture = wrap(config.family, built)
        self.add_module(self.architecture.attribute, built)
        self._group: int | None = None
        self._pieces = EAGER

    @property
    def model(self) -> Any:
        """The family's own module."""
        return getattr(self, self.architecture.attribute)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def prompt_width(self) -> int:
        """C."""
        return self.architecture.width

    @property
    def logit_size(self) -> int:
        """h = w."""
        return self.architecture.grid * 4

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile the image encoder's blocks, on first use: once for each kind of block, however many there are; and
        the pieces of a tracked step, once for batches of any size and memories of any length.

        A block that is alone of its kind stays as it is: it would take as long to compile as all of another kind. So
        do keyframes, which come once a clip, with other prompts.
        """
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, len(self.architecture.blocks()))
        kinds: dict[Any, list[nn.Module]] = {}
        for block in self.architecture.blocks():
            shapes = tuple(p.shape for p in block.parameters())
            kinds.setdefault((shapes, getattr(block, "window_size", None)), []).append(block)
        for block in (block for alike in kinds.values() if len(alike) > 1 for block in alike):
            block.forward = torch.compile(block.forward, dynamic=False, backend=backend)
        self._group = COMPILED_GROUP
        self._pieces = compiled_pieces(backend)

    def round_weights(self) -> None:
        """For inference in bfloat16: keep the weights that autocast rounds at each use rounded, which is a third of all
        kernels of a propagation step less. No result changes; training would lose its small steps."""
        if self.config.compute_dtype == "bfloat16":
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    module.to(torch.bfloat16)

    def preprocess(self, frames: Sequence[Image.Image | NDArray[np.uint8]]) -> Tensor:
        """F frames (PIL, or H x W x 3 uint8) -> (F, 3, S, S) float32 on the CPU."""
        return self.architecture.normalise(self.architecture.resize(frames))

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
        short = 0 if self._group is None else -pixels.shape[0] % self._group
        if short:  # a compiled encoder sees groups of one size
            pixels = torch.cat([pixels, pixels[-1:].expand(short, -1, -1, -1)])
        parts = pixels.to(self.device).split(self._group or pixels.shape[0])
        with self.autocast():
            levels = [self.architecture.frozen_levels(part) for part in parts]
        if len(levels) == 1 and not short:
            return levels[0]
        fine, middle, coarse = (level[: pixels.shape[0] - short] for level in concat_levels(levels))
        return fine, middle, coarse

    def _project(self, frozen: Levels) -> Levels:
        with self.autocast():
            return self.architecture.project(frozen)

    def _features(self, parts: Sequence[Levels]) -> Features:
        levels = concat_levels(parts)
        return Features(levels, self.architecture.frame_position(levels[2][:1]))

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
            image = self.architecture.without_memory(levels[2])
            prompt = embed_states(self.architecture, states)
            return run_heads(self.architecture, image, levels, prompt, gate=False)

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
        points: Tensor | None = None,
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
            points: (B, 2) x, y likewise.
            videos: per item the rows of ``features`` that are its video; keyframes and the steps' frames then count
                along it. Of one length, or all long enough for every pointer (`pointer_frames`). None: all rows, in
                order.
        """
        if states is not None:
            self._check_states(states, len(keyframes))
        if boxes is not None:
            boxes = self._in_encoder(boxes, "boxes", (len(keyframes), 4), clip_size)
        if points is not None:
            points = self._in_encoder(points, "points", (len(keyframes), 2), clip_size)
        propagation = Propagation(
            self.architecture,
            features,
            keyframes,
            PromptBatch(states, boxes, points),
            videos=videos,
            gate=self.config.propagation_gate,
            max_batch=max_batch,
            autocast=self.autocast,
            pieces=self._pieces,
        )
        return propagation.steps()

    def _in_encoder(
        self, corners: Tensor, what: str, shape: tuple[int, int], clip_size: tuple[int, int] | None
    ) -> Tensor:
        """Pixels of the clip, x before y, as pixels of the encoder's input. Raises ValueError for another shape."""
        if clip_size is None or corners.shape != shape:
            found = f"{tuple(corners.shape)} and {clip_size}"
            raise ValueError(f"propagate: {what} must be {shape} and come with clip_size; found {found}")
        # divided before multiplied, as the stock predictor does, so that the corners are equal to the last bit
        height, width = clip_size
        extent = torch.tensor([width, height] * (shape[1] // 2), dtype=torch.float32)
        return corners.detach().float().cpu() / extent * self.architecture.image_size

    def freeze_all_but_decoder(self) -> None:
        """Let gradients reach the prompt encoder and the mask decoder only."""
        trainable = {id(p) for p in self.trainable_parameters()}
        for p in self.parameters():
            p.requires_grad_(id(p) in trainable)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Prompt encoder and mask decoder."""
        return [p for part in self.architecture.decoder_parts for p in getattr(self.model, part).parameters()]

    def decoder_state_dict(self) -> dict[str, Tensor]:
        """CPU copies of prompt encoder and mask decoder, keyed by the model's own names."""
        return {
            name: value.detach().cpu().clone()
            for name, value in self.model.state_dict().items()
            if name.split(".", 1)[0] in self.architecture.decoder_parts
        }

    def load_decoder_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Replace prompt encoder and mask decoder; buffers may be left out, as they never change.

        Raises:
            ValueError: if a parameter is missing, or a name belongs to another part.
        """
        parts = {part: getattr(self.model, part) for part in self.architecture.decoder_parts}
        names = {f"{part}.{k}" for part, module in parts.items() for k in module.state_dict()}
        needed = {f"{part}.{k}" for part, module in parts.items() for k, _ in module.named_parameters()}
        if wrong := sorted((needed - set(weights)) | (set(weights) - names)):
            raise ValueError(f"decoder weights: {len(wrong)} keys missing or unknown, first {wrong[0]!r}")
        self.model.load_state_dict(weights, strict=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where ``compute_dtype`` asks for it; otherwise whatever the caller has set."""
        if self.config.compute_dtype == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _check_states(self, states: Tensor, count: int) -> None:
        if states.shape != (count, self.prompt_width):
            raise ValueError(f"states must be ({count}, {self.prompt_width}); found {tuple(states.shape)}")
