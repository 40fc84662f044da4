"""SAM 2.1 (the sam2 package) behind the interface of ``architecture.py``; shapes as there."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewards.segmenter.architecture import Attention, Family, Frames, MemoryLayer, Projection, RawMasks
from rewards.segmenter.build import DECODER_OPTIONS, NEEDED_OPTIONS, build_sam2, load_sam2_weights
from rewards.segmenter.features import Levels
from rewards.segmenter.preprocess import normalise, resize


class Sam2:
    """A view of a ``SAM2Base``; holds nothing that a change of weights would make stale."""

    attribute = "sam2_model"
    decoder_parts = ("sam_prompt_encoder", "sam_mask_decoder")

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
        return int(self.model.image_encoder.neck.d_model)

    @property
    def grid(self) -> int:
        return int(self.model.sam_image_embedding_size)

    @property
    def num_memories(self) -> int:
        return int(self.model.num_maskmem)

    @property
    def num_pointers(self) -> int:
        return int(self.model.max_obj_ptrs_in_encoder)

    def resize(self, frames: Frames) -> Tensor:
        return resize(frames, self.image_size)

    def normalise(self, frames: Tensor) -> Tensor:
        return normalise(frames)

    def frozen_levels(self, pixels: Tensor) -> Levels:
        fine, middle, coarse = self.model.image_encoder(pixels)["backbone_fpn"][-3:]
        return fine, middle, coarse

    def project(self, frozen: Levels) -> Levels:
        decoder = self.model.sam_mask_decoder
        return decoder.conv_s0(frozen[0]), decoder.conv_s1(frozen[1]), frozen[2]

    def frame_position(self, like: Tensor) -> Tensor:
        position: Tensor = self.model.image_encoder.neck.position_encoding(like[:1])
        return position.to(like.dtype)

    def without_memory(self, coarse: Tensor) -> Tensor:
        return coarse + self.model.no_mem_embed.reshape(1, -1, 1, 1)

    def embed_points(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        return sparse, dense

    def dense_position(self) -> Tensor:
        return self.model.sam_prompt_encoder.get_dense_pe()  # type: ignore[no-any-return]

    def decode(self, image: Tensor, levels: Levels, sparse: Tensor, dense: Tensor, pe: Tensor, many: bool) -> RawMasks:
        return RawMasks(
            *self.model.sam_mask_decoder(
                image_embeddings=image,
                image_pe=pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=many,
                repeat_image=False,
                high_res_features=[levels[0], levels[1]],
            )
        )

    def pointers(self, tokens: Tensor, seen: Tensor) -> Tensor:
        pointers: Tensor = seen * self.model.obj_ptr_proj(tokens) + (1 - seen) * self.model.no_obj_ptr
        return pointers

    def remember(self, coarse: Tensor, logits: Tensor, seen: Tensor, *, by_user: bool) -> Tensor:
        model, size = self.model, (self.image_size, self.image_size)
        masks = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)
        masks = (masks > 0).to(masks.dtype) if by_user else torch.sigmoid(masks)
        scaled = masks * model.sigmoid_scale_for_mem_enc + model.sigmoid_bias_for_mem_enc
        memory: Tensor = model.memory_encoder(coarse, scaled, skip_mask_sigmoid=True)["vision_features"]
        absent = 1 - seen.to(memory.dtype)
        return memory + absent[:, :, None, None] * model.no_obj_embed_spatial[:, :, None, None]

    def memory_positions(self) -> Tensor:
        blank = self.model.no_mem_embed.new_zeros(1, self.model.mem_dim, self.grid, self.grid)
        grid: Tensor = self.model.memory_encoder.position_encoding(blank)
        return grid.flatten(2).transpose(1, 2) + self.model.maskmem_tpos_enc.flatten(1, 2)

    def pointer_positions(self, distances: Tensor) -> Tensor:
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        return self.model.obj_ptr_tpos_proj(get_1d_sine_pe(distances, dim=self.width))  # type: ignore[no-any-return]

    def memory_layers(self) -> tuple[list[MemoryLayer], Projection]:
        attention = self.model.memory_attention
        return [_layer(layer) for layer in attention.layers], attention.norm

    def rotary(self, like: Tensor) -> Tensor:
        attention = self.model.memory_attention.layers[0].cross_attn_image
        if attention.freqs_cis.shape[0] != self.grid**2 or attention.freqs_cis.device != like.device:
            attention.freqs_cis = attention.compute_cis(end_x=self.grid, end_y=self.grid).to(like.device)
        return attention.freqs_cis  # type: ignore[no-any-return]

    def blocks(self) -> list[nn.Module]:
        return list(self.model.image_encoder.trunk.blocks)


def _layer(layer: Any) -> MemoryLayer:
    frame, memory = layer.self_attn, layer.cross_attn_image
    return MemoryLayer(
        (layer.norm1, layer.norm2, layer.norm3),
        Attention(frame.q_proj, frame.k_proj, frame.v_proj, frame.out_proj),
        Attention(memory.q_proj, memory.k_proj, memory.v_proj, memory.out_proj),
        lambda x: layer.linear2(layer.activation(layer.linear1(x))),
    )


FAMILY = Family(
    build=build_sam2,
    wrap=Sam2,
    load=load_sam2_weights,
    options=NEEDED_OPTIONS | {f"sam_mask_decoder.{name}": value for name, value in DECODER_OPTIONS.items()},
)
