"""SAM 3's tracker (transformers' ``Sam3TrackerVideoModel``) behind the interface of ``architecture.py``.

It is SAM 2's decoder and memory on another image encoder, at 1008 pixels in patches of 14. Shapes as there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from rewards.segmenter.architecture import Attention, Family, Frames, MemoryLayer, Projection, RawMasks
from rewards.segmenter.config import SAM3_MEMORY_WIDTH, SAM3_PATCH, SegmenterConfig
from rewards.segmenter.features import Levels
from rewards.segmenter.preprocess import normalise, resize
from rewards.segmenter.weights import fill, read_weights
from rollout.errors import EnvironmentMismatchError

NEEDED_OPTIONS = {
    "config.multimask_output_in_sam": True,
    "config.multimask_output_for_tracking": True,
    "config.multimask_min_pt_num": 0,
    "config.multimask_max_pt_num": 1,
    "config.memory_attention_num_attention_heads": 1,
    "config.enable_occlusion_spatial_embedding": True,
    "config.enable_temporal_pos_encoding_for_object_pointers": True,
    "mask_decoder.dynamic_multimask_via_stability": True,
    "mask_decoder.dynamic_multimask_stability_delta": 0.05,
    "mask_decoder.dynamic_multimask_stability_thresh": 0.98,
}
HALF = (0.5, 0.5, 0.5)
"""Mean and spread to which SAM 3 normalises pixels."""
PREFIXES = {
    "grounding_encoder.sam3_model.": "",
    "sam3_model.": "",
    "tracker_model.": "",
    "detector_model.vision_encoder.backbone.": "vision_encoder.backbone.",
    "tracker_neck.": "vision_encoder.neck.",
}
"""Names in our policies and in facebook/sam3 -> the tracker's own; other parts of the detector are left out."""
DETECTOR = "detector_model."


class Sam3:
    """A view of a ``Sam3TrackerVideoModel``; holds nothing that a change of weights would make stale."""

    attribute = "sam3_model"
    decoder_parts = ("prompt_encoder", "mask_decoder")

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def image_size(self) -> int:
        return int(self.model.image_size)

    @property
    def width(self) -> int:
        return int(self.model.hidden_dim)

    @property
    def feature_width(self) -> int:
        return int(self.model.hidden_dim)

    @property
    def grid(self) -> int:
        return int(self.model.prompt_encoder.image_embedding_size[0])

    @property
    def num_memories(self) -> int:
        return int(self.model.num_maskmem)

    @property
    def num_pointers(self) -> int:
        return int(self.model.config.max_object_pointers_in_encoder)

    def resize(self, frames: Frames) -> Tensor:
        return resize(frames, self.image_size, Image.Resampling.BILINEAR)

    def normalise(self, frames: Tensor) -> Tensor:
        return normalise(frames, HALF, HALF)

    def frozen_levels(self, pixels: Tensor) -> Levels:
        fine, middle, coarse = self.model.vision_encoder(pixels).fpn_hidden_states[:3]
        return fine, middle, coarse

    def project(self, frozen: Levels) -> Levels:
        decoder = self.model.mask_decoder
        return decoder.conv_s0(frozen[0]), decoder.conv_s1(frozen[1]), frozen[2]

    def frame_position(self, like: Tensor) -> Tensor:
        shape = torch.Size((1, *like.shape[1:]))
        return self.model.vision_encoder.neck.position_encoding(shape, like.device, like.dtype)  # type: ignore[no-any-return]

    def without_memory(self, coarse: Tensor) -> Tensor:
        return coarse + self.model.no_memory_embedding.reshape(1, -1, 1, 1)

    def embed_points(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.prompt_encoder(
            input_points=coords[:, None], input_labels=labels[:, None], input_boxes=None, input_masks=None
        )
        return sparse[:, 0], dense

    def dense_position(self) -> Tensor:
        return self.model.get_image_wide_positional_embeddings()  # type: ignore[no-any-return]

    def decode(self, image: Tensor, levels: Levels, sparse: Tensor, dense: Tensor, pe: Tensor, many: bool) -> RawMasks:
        masks, ious, tokens, score = self.model.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=pe.expand(image.shape[0], -1, -1, -1),
            sparse_prompt_embeddings=sparse[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=many,
            high_resolution_features=[levels[0], levels[1]],
        )
        return RawMasks(masks[:, 0], ious[:, 0], tokens[:, 0], score[:, 0])

    def pointers(self, tokens: Tensor, seen: Tensor) -> Tensor:
        pointers: Tensor = seen * self.model.object_pointer_proj(tokens) + (1 - seen) * self.model.no_object_pointer
        return pointers

    def remember(self, coarse: Tensor, logits: Tensor, seen: Tensor, *, by_user: bool) -> Tensor:
        model, side = self.model, self.grid * 16
        size = (self.image_size, self.image_size)
        masks = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)
        if side != self.image_size:
            masks = F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        masks = (masks > 0).to(masks.dtype) if by_user else torch.sigmoid(masks)
        scaled = masks * model.config.sigmoid_scale_for_mem_enc + model.config.sigmoid_bias_for_mem_enc
        memory: Tensor = model.memory_encoder(coarse, scaled)[0]
        absent = 1 - seen.to(memory.dtype)
        return memory + absent[:, :, None, None] * model.occlusion_spatial_embedding_parameter[..., None, None]

    def memory_positions(self) -> Tensor:
        model = self.model
        shape = torch.Size((1, model.mem_dim, self.grid, self.grid))
        times = model.memory_temporal_positional_encoding
        grid: Tensor = model.memory_encoder.position_encoding(shape, times.device, times.dtype)
        return grid.flatten(2).transpose(1, 2) + times.flatten(1, 2)

    def pointer_positions(self, distances: Tensor) -> Tensor:
        from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import get_1d_sine_pe

        encoding = get_1d_sine_pe(distances, dim=self.width)
        return self.model.temporal_positional_encoding_projection_layer(encoding)  # type: ignore[no-any-return]

    def memory_layers(self) -> tuple[list[MemoryLayer], Projection]:
        attention = self.model.memory_attention
        return [_layer(layer) for layer in attention.layers], attention.layer_norm

    def rotary(self, like: Tensor) -> Tensor:
        cos, sin = self.model.memory_attention.rotary_emb()
        return torch.complex(cos[:, ::2].float(), sin[:, ::2].float())

    def blocks(self) -> list[nn.Module]:
        return list(self.model.vision_encoder.backbone.layers)


def _layer(layer: Any) -> MemoryLayer:
    frame, memory = layer.self_attn, layer.cross_attn_image
    return MemoryLayer(
        (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3),
        Attention(frame.q_proj, frame.k_proj, frame.v_proj, frame.o_proj),
        Attention(memory.q_proj, memory.k_proj, memory.v_proj, memory.o_proj),
        lambda x: layer.linear2(layer.activation(layer.linear1(x))),
    )


def build_sam3(cfg: SegmenterConfig) -> nn.Module:
    """Random weights seeded by ``cfg.seed`` (torch's own generators are left as they were), in eval mode, on the CPU.

    Raises:
        EnvironmentMismatchError: this transformers has no SAM 3.
    """
    try:
        from transformers import Sam3TrackerVideoConfig, Sam3TrackerVideoModel
    except ImportError as error:
        raise EnvironmentMismatchError(
            "this transformers has no Sam3TrackerVideoModel; segmenter.preset sam3 needs transformers 5"
        ) from error
    config = Sam3TrackerVideoConfig(**({} if cfg.preset == "sam3" else _sizes(cfg)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Sam3TrackerVideoModel(config).eval()


def _sizes(cfg: SegmenterConfig) -> dict[str, Any]:
    """transformers' options for the same architecture at free sizes."""
    d, side, grid = cfg.d_model, cfg.input_size, cfg.input_size // SAM3_PATCH
    backbone = {
        "hidden_size": cfg.embed_dim * 4,
        "intermediate_size": cfg.embed_dim * 8,
        "num_hidden_layers": sum(cfg.stages),
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": SAM3_PATCH,
        "pretrain_image_size": side,
        "window_size": max(1, grid // 2),
        "global_attn_indexes": list(cfg.global_att_blocks),
    }
    return {
        "image_size": side,
        "vision_config": {"backbone_config": backbone, "fpn_hidden_size": d},
        "prompt_encoder_config": {"hidden_size": d, "patch_size": SAM3_PATCH, "image_size": side},
        "mask_decoder_config": {
            "hidden_size": d,
            "mlp_dim": 2 * d,
            "iou_head_hidden_dim": d,
            "num_attention_heads": 4,
        },
        "memory_attention_hidden_size": d,
        "memory_attention_num_layers": cfg.memory_layers,
        "memory_attention_feed_forward_hidden_size": cfg.memory_feedforward,
        "memory_encoder_hidden_size": d,
        "memory_encoder_output_channels": SAM3_MEMORY_WIDTH,
        "mask_downsampler_embed_dim": d,
        "memory_fuser_embed_dim": d,
        "memory_fuser_intermediate_dim": 2 * d,
        "memory_fuser_num_layers": cfg.fuser_layers,
        "memory_fuser_layer_scale_init_value": cfg.fuser_layer_scale,
    }


def load_sam3_weights(model: nn.Module, path: Path) -> None:
    """Fill ``model``, strictly, from facebook/sam3's ``model.safetensors``, a tracker's own, or a policy's head.

    Raises:
        DataError: the file holds another model; or a tensor is missing, unknown or of another shape: names it.
    """
    from rewards.model_files import check_sam3

    check_sam3(path)
    weights = {own: t for name, t in read_weights(path).items() if (own := _own_name(name)) is not None}
    fill(model, weights, path, "SAM 3")


def _own_name(name: str) -> str | None:
    """The tracker's name of a tensor; None for what is the detector's alone."""
    for prefix, own in PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return None if name.startswith(DETECTOR) else name


FAMILY = Family(build=build_sam3, wrap=Sam3, load=load_sam3_weights, options=NEEDED_OPTIONS)
