"""SAM 2 from the sam2 package's own modules: parameter names equal those of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.model_files import check_sam2, check_sam2_names
from rewards.segmenter.config import SegmenterConfig
from rewards.segmenter.weights import fill, read_weights
from rollout.errors import DataError, EnvironmentMismatchError

_CHECKPOINT_PREFIXES = ("grounding_encoder.sam2_model.", "sam2_model.")
"""Under which released VideoSEG-O3 and our own policy checkpoints keep SAM 2."""

NEEDED_OPTIONS = {
    "directly_add_no_mem_embed": True,
    "use_high_res_features_in_sam": True,
    "multimask_output_in_sam": True,
    "multimask_output_for_tracking": True,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 1,
    "memory_temporal_stride_for_eval": 1,
    "non_overlap_masks_for_mem_enc": False,
    "binarize_mask_from_pts_for_mem_enc": True,
    "use_obj_ptrs_in_encoder": True,
    "proj_tpos_enc_in_obj_ptrs": True,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "pred_obj_scores": True,
    "fixed_no_obj_ptr": True,
    "soft_no_obj_ptr": False,
}
"""Options of SAM 2 that decoding and propagation rely on. All sam2.1 models have them, binarised masks of prompted
frames by ``build_sam2_video_predictor``."""

DECODER_OPTIONS = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
"""Of the mask decoder, by the same builder: a box whose single mask is not stable gets the best of the other three.
What the builder adds beside them, filling holes of up to 8 pixels, needs a CUDA operator of sam2's that we build
without; its predictor then leaves it out as well."""


@contextmanager
def hydra_untouched() -> Iterator[None]:
    """Put Hydra's global state back afterwards: importing sam2 initialises it, and a later Hydra main then fails."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def build_sam2(cfg: SegmenterConfig, *, stock_predictor: bool = False) -> nn.Module:
    """Random weights seeded by ``cfg.seed`` (torch's own generators are left as they were), in eval mode, on the CPU.

    Args:
        stock_predictor: build sam2's ``SAM2VideoPredictor`` instead of ``SAM2Base``; same parameters.
    Raises:
        EnvironmentMismatchError: the sam2 package is missing or lacks the preset.
    """
    if find_spec("sam2") is None:
        raise EnvironmentMismatchError("the package 'sam2' is not installed; install this project with [cpu] or [gpu]")
    with hydra_untouched(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        from sam2.modeling.sam2_base import SAM2Base
        from sam2.sam2_video_predictor import SAM2VideoPredictor

        model_class = SAM2VideoPredictor if stock_predictor else SAM2Base
        model = _from_sizes(cfg, model_class) if cfg.preset == "tiny" else _from_package(cfg.preset, model_class)
    return model.eval()


def _from_package(preset: str, model_class: type[nn.Module]) -> nn.Module:
    """The model of a YAML that the sam2 package ships, without going through Hydra's search path."""
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = Path(sam2.__file__).parent / "configs" / "sam2.1" / f"{preset}.yaml"
    if not path.exists():
        raise EnvironmentMismatchError(f"{path}: this sam2 package has no preset {preset!r}; install sam2 1.1.0")
    model = OmegaConf.load(path).model
    model._target_ = f"{model_class.__module__}.{model_class.__qualname__}"
    model.sam_mask_decoder_extra_args = DECODER_OPTIONS
    model.binarize_mask_from_pts_for_mem_enc = NEEDED_OPTIONS["binarize_mask_from_pts_for_mem_enc"]
    return instantiate(model, _recursive_=True)  # type: ignore[no-any-return]


def _from_sizes(cfg: SegmenterConfig, model_class: type[nn.Module]) -> nn.Module:
    """The same architecture at free sizes, with the options of the sam2.1 YAML files and of their builder."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam.transformer import RoPEAttention

    d, e = cfg.d_model, cfg.embed_dim
    trunk = Hiera(
        embed_dim=e,
        num_heads=1,
        stages=cfg.stages,
        global_att_blocks=cfg.global_att_blocks,
        window_pos_embed_bkg_spatial_size=(7, 7),
    )
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=d),
        d_model=d,
        backbone_channel_list=[e * 8, e * 4, e * 2, e],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    rope: dict[str, Any] = {
        "rope_theta": 10000.0,
        "feat_sizes": [cfg.image_size // 16] * 2,
        "embedding_dim": d,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.1,
    }
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=cfg.memory_feedforward,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(**rope),
        d_model=d,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(**rope, rope_k_repeat=True, kv_in_dim=cfg.mem_dim),
    )
    fuser_block = CXBlock(dim=d, layer_scale_init_value=cfg.fuser_layer_scale)
    return model_class(
        image_encoder=ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=MemoryAttention(d_model=d, pos_enc_at_input=True, layer=layer, num_layers=cfg.memory_layers),
        memory_encoder=MemoryEncoder(
            in_dim=d,
            out_dim=cfg.mem_dim,
            position_encoding=PositionEmbeddingSine(num_pos_feats=cfg.mem_dim),
            mask_downsampler=MaskDownSampler(embed_dim=d, kernel_size=3, stride=2, padding=1),
            fuser=Fuser(layer=fuser_block, num_layers=cfg.fuser_layers),
        ),
        image_size=cfg.image_size,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        no_obj_embed_spatial=True,
        use_multimask_token_for_obj_ptr=True,
        iou_prediction_use_sigmoid=True,
        add_tpos_enc_to_obj_ptrs=True,
        use_signed_tpos_enc_to_obj_ptrs=True,
        pred_obj_scores_mlp=True,
        use_mlp_for_obj_ptr_proj=True,
        sam_mask_decoder_extra_args=DECODER_OPTIONS,
        **NEEDED_OPTIONS,
    )


def load_sam2_weights(model: nn.Module, path: Path) -> None:
    """Fill ``model`` from a sam2 ``.pt`` file, a ``.safetensors`` file, or a policy checkpoint that contains SAM 2.

    Raises:
        DataError: the file holds no SAM 2, or one of another architecture; names the tensors that do not fit.
    """
    if not path.exists():
        raise DataError(f"{path}: no such SAM 2 checkpoint")
    check_sam2(path)
    weights = _sam2_part(read_weights(path))
    check_sam2_names(weights, path)
    fill(model, weights, path, "SAM 2")


def _sam2_part(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _CHECKPOINT_PREFIXES:
        part = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
        if part:
            return part
    return dict(weights)
