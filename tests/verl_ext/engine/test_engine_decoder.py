"""All of SAM 2's mask decoder trains, and the pool draws with it what the actor draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rollout.frames import load_frames
from tests.verl_ext.dialogues import InProcessPool
from tests.verl_ext.engine.test_engine import FAST, data_of, parameters, train_step
from tests.verl_ext.engines import supervised_step
from verl_ext.policy.checkpoint import load_policy
from verl_ext.policy.head import DECODER_PREFIXES, is_head_parameter
from verl_ext.recipe import Recipe
from verl_ext.supervised.dataset import SFTDataset

NO_GRADIENT = ("sam_prompt_encoder.mask_downscaling", "iou_prediction_head", "pred_obj_score_head")
"""What a loss on ``[SEG]`` masks does not reach: mask prompts, and two predictions beside the mask."""


def test_all_of_the_mask_decoder_trains(build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe]) -> None:
    """Also its convolutions over the image encoder's fine levels, which SAM 2 applies while it encodes."""
    worker = build_worker(tiny_recipe("sft", *FAST))
    _, gradients = supervised_step(worker, data_of(worker))
    decoder = {n for n in parameters(worker) if n.startswith(DECODER_PREFIXES)}
    reached = {n for n in decoder if n in gradients}
    assert {n for n in decoder - reached if not any(part in n for part in NO_GRADIENT)} == set()
    for name in ("conv_s0", "conv_s1"):
        gradient = gradients[f"grounding_encoder.sam2_model.sam_mask_decoder.{name}.weight"]
        assert float(gradient.abs().sum()) > 0
    assert not [n for n in gradients if n.startswith("grounding_encoder.") and n not in decoder]


def test_actor_and_pool_draw_the_same_masks_after_an_update(
    build_worker: Callable[..., Any], tiny_recipe: Callable[..., Recipe], pool: InProcessPool
) -> None:
    """The pool's cached features hold the old decoder's convolutions and must not survive the new one."""
    worker = build_worker(tiny_recipe("sft", "optim.lr=0.05"))
    clip = SFTDataset(["train"], worker.model_config.tokenizer, None, worker.model_config.processor).items[0][0].clip
    state = torch.randn(1, pool.prompt_width)

    def drawn_by_pool() -> torch.Tensor:
        with torch.no_grad():
            return pool.scorer.segmenter.decode(pool.scorer.cache.features(clip, [0, 5]), [1], state)[0]

    before = drawn_by_pool()
    train_step(worker)
    pool.scorer.load_decoder(worker.engine.decoder_state())
    after = drawn_by_pool()
    actor = load_policy(worker.model_config.local_path)
    trained = {n: p for n, p in worker.engine.full_state().items() if is_head_parameter(n)}
    convolution = "grounding_encoder.sam2_model.sam_mask_decoder.conv_s0.weight"
    assert not torch.equal(trained[convolution], actor.state_dict()[convolution])
    actor.load_state_dict(trained, strict=False)
    segmenter = actor.grounding_encoder
    with torch.no_grad():
        features = segmenter.encode(segmenter.preprocess(load_frames(clip, [0, 5])))
        expected = segmenter.decode(features, [1], state)[0]
    assert torch.allclose(after, expected, atol=1e-5) and not torch.allclose(before, after, atol=1e-2)
