"""sam2's own video predictor as oracle, as its builder makes it: one object, one prompted frame, one state a call."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from unittest import mock

import torch
from omegaconf import OmegaConf
from torch import Tensor

from rewards.segmenter import Segmenter, build_sam2
from rewards.segmenter.build import hydra_untouched

FILLS_HOLES = "fill_hole_area"
"""Done by a CUDA operator that is not built here: the predictor warns and goes on without."""


def builder_options() -> dict[str, Any]:
    """Option of the model -> value that ``build_sam2_video_predictor`` adds to a YAML file unless told otherwise."""
    with hydra_untouched():
        import sam2.build_sam as module
    with mock.patch.object(module, "compose", side_effect=InterruptedError) as compose, suppress(InterruptedError):
        module.build_sam2_video_predictor("any.yaml")
    added = OmegaConf.from_dotlist([text.removeprefix("++model.") for text in compose.call_args.kwargs["overrides"]])
    del added["_target_"]
    options = OmegaConf.to_container(added)
    assert isinstance(options, dict)
    return {str(name): value for name, value in options.items()}


def stock_predictor(segmenter: Segmenter, *, as_built: bool = True) -> Any:
    """``SAM2VideoPredictor`` with the segmenter's weights.

    ``as_built``: by ``build_sam2_video_predictor``, for boxes; False leaves the prompted frame's mask as the decoder
    gave it, as the bare YAML does and as we do with a state's mask.
    """
    predictor: Any = build_sam2(segmenter.config, stock_predictor=True)
    predictor.load_state_dict(segmenter.sam2_model.state_dict())
    options = builder_options()
    for name, value in options.pop("sam_mask_decoder_extra_args").items():
        setattr(predictor.sam_mask_decoder, name, value)
    for name, value in options.items():
        if name != FILLS_HOLES:
            setattr(predictor, name, value and as_built)
    return predictor


def stock_propagate(
    predictor: Any,
    pixels: Tensor,
    keyframe: int,
    size: tuple[int, int],
    *,
    box: Tensor | None = None,
    point: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """(T, H, W) logits at the clip's size. A state is appended to every sparse prompt by a hook."""

    def append(module: Any, args: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert state is not None
        return torch.cat([out[0], state[None, None]], dim=1), out[1]

    inference = _state(predictor, pixels, size)
    out = torch.empty(len(pixels), *size)
    hook = None if state is None else predictor.sam_prompt_encoder.register_forward_hook(append)
    try:
        if box is not None:
            predictor.add_new_points_or_box(inference, keyframe, 1, box=box)
        elif point is not None:
            click = {"points": point[None], "labels": torch.ones(1, dtype=torch.int32)}
            predictor.add_new_points_or_box(inference, keyframe, 1, **click)
        else:
            _add_unprompted_frame(predictor, inference, keyframe)
        for reverse in (False, True):
            for t, _, logits in predictor.propagate_in_video(inference, start_frame_idx=keyframe, reverse=reverse):
                out[t] = logits[0, 0]
    finally:
        if hook is not None:
            hook.remove()
    return out


def _state(predictor: Any, pixels: Tensor, size: tuple[int, int]) -> Any:
    with hydra_untouched():
        import sam2.sam2_video_predictor as module
    with mock.patch.object(module, "load_video_frames", lambda **_: (pixels, *size)):
        return predictor.init_state(video_path="unused")


@torch.inference_mode()
def _add_unprompted_frame(predictor: Any, inference: Any, keyframe: int) -> None:
    """A conditioning frame without clicks, which the predictor's public calls do not offer."""
    index = predictor._obj_id_to_idx(inference, 1)
    outputs = inference["output_dict_per_obj"][index]
    out, _ = predictor._run_single_frame_inference(
        inference_state=inference,
        output_dict=outputs,
        frame_idx=keyframe,
        batch_size=1,
        is_init_cond_frame=True,
        point_inputs=None,
        mask_inputs=None,
        reverse=False,
        run_mem_encoder=False,
    )
    inference["temp_output_dict_per_obj"][index]["cond_frame_outputs"][keyframe] = out
