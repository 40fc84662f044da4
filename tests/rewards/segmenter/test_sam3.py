"""SAM 3's tracker behind our propagation: equal to transformers' own, and a batch to its items one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rewards.model_files import check_sam2
from rewards.segmenter import BoxRequest, PropagateRequest, RequestScorer, Segmenter, SegmenterConfig, SegRequest
from rewards.segmenter.families import load_weights
from rewards.segmenter.heads import NO_OBJECT_LOGIT
from rollout.errors import DataError, RecipeError
from tests.rewards.segmenter.clips import write_clip
from tests.rewards.segmenter.conftest import SMALL as SMALL_SAM2

SMALL = SegmenterConfig("sam3_tiny", image_size=64, d_model=128, memory_feedforward=32)
SIZE = (90, 120)
KEYFRAMES = [0, 3, 9, 16, 19]
BOXES = torch.tensor(
    [[10.0, 5, 70, 60], [0, 0, 119, 89], [30, 20, 50, 40], [60, 10, 115, 80], [5, 40, 40, 85]],
)
TOLERANCE = 3e-6
"""Logits spread by 3e-2."""


@pytest.fixture(scope="module")
def sam3() -> Segmenter:
    """Its object scores are neither all positive nor all negative."""
    segmenter = Segmenter(SMALL)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in segmenter.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.04)
        features = segmenter.encode(torch.randn(8, 3, 56, 56, generator=generator))
        states = torch.randn(8, segmenter.prompt_width, generator=generator)
        scores = segmenter.decode_candidates(features, range(8), states).object_score
        segmenter.model.mask_decoder.pred_obj_score_head.proj_out.bias -= scores.median()
    return segmenter


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """(20, 3, 56, 56): longer than the memory's reach of 6 frames and the pointers' of 15."""
    return torch.randn(20, 3, 56, 56, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def states() -> Tensor:
    return torch.randn(6, 128, generator=torch.Generator().manual_seed(3))


def stock_propagate(
    model: Any, pixels: Tensor, keyframe: int, *, box: Tensor | None = None, state: Tensor | None = None
) -> Tensor:
    """(T, h, w) logits of transformers' own tracker; a state is appended to every sparse prompt by a hook."""
    from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoInferenceSession

    def append(module: Any, args: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert state is not None
        return torch.cat([out[0], state[None, None, None]], dim=2), out[1]

    session = Sam3TrackerVideoInferenceSession(pixels, *SIZE, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    session.obj_with_new_inputs = [1]
    if box is not None:
        corners = box.reshape(2, 2) / torch.tensor([SIZE[1], SIZE[0]]) * model.image_size
        inputs = {"point_coords": corners[None, None], "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}
        session.add_point_inputs(index, keyframe, inputs)
    out = torch.empty(len(pixels), model.image_size // 14 * 4, model.image_size // 14 * 4)
    hook = None if state is None else model.prompt_encoder.register_forward_hook(append)
    try:
        model(session, keyframe)
        session.obj_with_new_inputs = []
        for reverse in (False, True):
            for found in model.propagate_in_video_iterator(session, keyframe, reverse=reverse):
                out[found.frame_idx] = found.pred_masks[0, 0]
    finally:
        if hook is not None:
            hook.remove()
    return out


def test_states_equal_stock(sam3: Segmenter, pixels: Tensor, states: Tensor) -> None:
    with torch.no_grad():
        ours = sam3.propagate(sam3.encode(pixels), KEYFRAMES, states=states[:5])
    blank = (ours == NO_OBJECT_LOGIT).flatten(2).all(-1)
    assert 0.02 < blank.float().mean() < 0.98
    with torch.no_grad():
        alone = torch.stack(
            [sam3.decode(sam3.encode(pixels), range(20), states[i].expand(20, -1))[0] for i in range(5)]
        )
    assert (ours - alone)[~blank].abs().max() > 100 * TOLERANCE, "memory must matter here"
    for item, keyframe in enumerate(KEYFRAMES):
        stock = stock_propagate(sam3.model, pixels, keyframe, state=states[item])
        torch.testing.assert_close(ours[item], stock, atol=TOLERANCE, rtol=1e-4)


def test_boxes_equal_stock(sam3: Segmenter, pixels: Tensor) -> None:
    with torch.no_grad():
        ours = sam3.propagate(sam3.encode(pixels), KEYFRAMES, boxes=BOXES, clip_size=SIZE)
    for item, keyframe in enumerate(KEYFRAMES):
        stock = stock_propagate(sam3.model, pixels, keyframe, box=BOXES[item])
        torch.testing.assert_close(ours[item], stock, atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_short_clips_equal_stock(sam3: Segmenter, pixels: Tensor, states: Tensor, length: int) -> None:
    with torch.no_grad():
        ours = sam3.propagate(sam3.encode(pixels[:length]), [length - 1], states=states[:1])
    stock = stock_propagate(sam3.model, pixels[:length], length - 1, state=states[0])
    torch.testing.assert_close(ours[0], stock, atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("max_batch", [2, 64])
def test_batch_equals_one_at_a_time(sam3: Segmenter, pixels: Tensor, states: Tensor, max_batch: int) -> None:
    keyframes = [4, 19, 4, 12, 0, 18]
    with torch.no_grad():
        features = sam3.encode(pixels)
    together = sam3.propagate(features, keyframes, states=states, max_batch=max_batch)
    for i, keyframe in enumerate(keyframes):
        alone = sam3.propagate(features, [keyframe], states=states[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], atol=TOLERANCE, rtol=1e-4)


def test_a_state_is_one_more_prompt_of_the_mask_decoder(sam3: Segmenter, pixels: Tensor, states: Tensor) -> None:
    """Gradients of a single frame's mask reach the state and the decoder; of the tracker no other part is trained."""
    sam3.freeze_all_but_decoder()
    state = states[:2].clone().requires_grad_()
    frozen = sam3.encode_frozen(pixels[:2])
    sam3.decode_candidates(sam3.project(frozen), [0, 1], state).candidates.sum().backward()
    assert state.grad is not None and state.grad.abs().sum() > 0
    assert sam3.model.mask_decoder.conv_s0.weight.grad.abs().sum() > 0
    trained = {n.split(".")[1] for n, p in sam3.named_parameters() if p.requires_grad}
    assert trained == {"prompt_encoder", "mask_decoder"}
    sam3.zero_grad()


def test_projected_frozen_levels_are_the_encoders(sam3: Segmenter, pixels: Tensor) -> None:
    with torch.no_grad():
        whole, parts = sam3.encode(pixels[:3]), sam3.project(sam3.encode_frozen(pixels[:3]))
    for a, b in zip(whole.levels, parts.levels, strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=1e-4)


def test_the_pools_requests(sam3: Segmenter, tmp_path: Path) -> None:
    """Each kind, together as alone."""
    clip, masklets = write_clip(tmp_path)
    state = np.random.default_rng(0).normal(size=128).astype(np.float32)
    requests: list[Any] = [
        SegRequest(clip, masklets, (0, 3), (state,), (2,)),
        PropagateRequest(clip, 2, state, masklets),
        PropagateRequest(clip, 5, -state, masklets),
        BoxRequest(clip, range(6), 1, [(5.0, 5, 20, 20), (20, 20, 50, 38)], masklets, with_masks=True),
    ]
    together = RequestScorer(sam3).score(requests)
    alone = [RequestScorer(sam3).score([request])[0] for request in requests]
    assert together == alone
    assert len(together[3].objects) == 2  # type: ignore[union-attr, arg-type]


def test_frames_are_normalised_as_the_published_processor_does(sam3: Segmenter) -> None:
    frame = np.full((30, 40, 3), 255, dtype=np.uint8)
    assert torch.equal(sam3.preprocess([frame]), torch.ones(1, 3, 56, 56))


PUBLISHED = {
    "vision_encoder.backbone.": "detector_model.vision_encoder.backbone.",
    "vision_encoder.neck.": "tracker_neck.",
}


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the names of facebook/sam3, with tensors of the detector beside them."""
    out = {"detector_model.detr_encoder.layers.0.layer_norm1.weight": torch.zeros(3)}
    for name, tensor in state.items():
        start = next((p for p in PUBLISHED if name.startswith(p)), None)
        new = f"tracker_model.{name}" if start is None else PUBLISHED[start] + name.removeprefix(start)
        out[new] = tensor.contiguous()
    return out


def own(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor.contiguous() for name, tensor in state.items()}


@pytest.mark.parametrize("form", ["own", "published", "policy"])
def test_weights_are_read_from_each_form(sam3: Segmenter, tmp_path: Path, form: str) -> None:
    state = sam3.model.state_dict()
    tensors = {
        "own": own(state),
        "published": published(state),
        "policy": own(state, "grounding_encoder.sam3_model."),
    }[form]
    save_file(tensors, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", tmp_path):
        fresh = Segmenter(SegmenterConfig(**{**SMALL.to_dict(), "seed": 7}))
        load_weights("sam3", fresh.model, path)
        assert all(torch.equal(t, state[n]) for n, t in fresh.model.state_dict().items())


def spoil_missing(state: dict[str, Tensor]) -> None:
    del state["occlusion_spatial_embedding_parameter"]


def spoil_extra(state: dict[str, Tensor]) -> None:
    state["memory_attention.layers.9.linear1.bias"] = torch.zeros(3)


def spoil_renamed(state: dict[str, Tensor]) -> None:
    state["no_obj_pointer"] = state.pop("no_object_pointer")


def spoil_shape(state: dict[str, Tensor]) -> None:
    state["no_memory_embedding"] = torch.zeros(1, 1, 7)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_missing, "1 missing: occlusion_spatial_embedding_parameter"),
        (spoil_extra, "1 unknown: memory_attention.layers.9.linear1.bias"),
        (spoil_renamed, "1 missing: no_object_pointer; 1 unknown: no_obj_pointer"),
        (spoil_shape, "1 of another shape: no_memory_embedding"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(sam3: Segmenter, tmp_path: Path, spoil: Any, words: str) -> None:
    state = own(sam3.model.state_dict())
    spoil(state)
    save_file(state, tmp_path / "model.safetensors")
    fresh = Segmenter(SMALL)
    before = {n: t.clone() for n, t in fresh.model.state_dict().items()}
    with pytest.raises(DataError, match=words):
        load_weights("sam3", fresh.model, tmp_path / "model.safetensors")
    assert all(torch.equal(t, before[n]) for n, t in fresh.model.state_dict().items()), "nothing is loaded by halves"


def test_weights_of_the_other_family_are_refused_by_name(sam3: Segmenter, segmenter: Segmenter, tmp_path: Path) -> None:
    for name, state in (("own", own(sam3.model.state_dict())), ("published", published(sam3.model.state_dict()))):
        save_file(state, tmp_path / f"{name}.safetensors")
        for look in (lambda p: check_sam2(p, "tiny"), lambda p: load_weights("sam2", segmenter.model, p)):
            with pytest.raises(DataError, match=r"holds SAM 3, not SAM 2; set the preset to sam3"):
                look(tmp_path / f"{name}.safetensors")
    save_file(own(segmenter.model.state_dict()), tmp_path / "sam2.safetensors")
    for look in (lambda p: check_sam2(p, "sam3"), lambda p: load_weights("sam3", sam3.model, p)):
        with pytest.raises(DataError, match="holds SAM 2, not SAM 3"):
            look(tmp_path / "sam2.safetensors")
    detector = {n: t for n, t in published(sam3.model.state_dict()).items() if not n.startswith("tracker_model.")}
    save_file(detector, tmp_path / "detector.safetensors")
    with pytest.raises(DataError, match="detector without its tracker"):
        load_weights("sam3", sam3.model, tmp_path / "detector.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="another model than SAM 3"):
        load_weights("sam3", sam3.model, tmp_path / "other.safetensors")


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(RecipeError, match="d_model: 96 must be a multiple of 64"):
        SegmenterConfig("sam3_tiny", d_model=96)
    assert SegmenterConfig("sam3").input_size == 1008 and SegmenterConfig("sam3").prompt_width == 256
    assert SMALL_SAM2.family == "sam2" and SMALL.family == "sam3"


def test_an_option_that_propagation_does_not_follow_is_refused(sam3: Segmenter) -> None:
    model: Any = Segmenter(SMALL).model
    model.mask_decoder.dynamic_multimask_via_stability = False
    with pytest.raises(ValueError, match=r"SAM3 option mask_decoder\.dynamic_multimask_via_stability is False"):
        Segmenter(SMALL, model)
