"""Pictures by reference give verl's own processor output, whichever process makes their pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rollout.chat_format import ChatFormat
from rollout.frames import load_frame_resized
from rollout.messages import FramePart
from rollout.pictures import PictureStore
from rollout.types import Sample
from verl_ext.policy.pictures import DRAWN, PixelValues, picture_inputs, pictures_of


@pytest.fixture(params=["qwen3_vl", "qwen2_5_vl"])
def processor(request: pytest.FixtureRequest, tiny_policy: Path) -> Any:
    """As verl sees it: with the model's ``get_rope_index``."""
    from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig

    found = AutoProcessor.from_pretrained(tiny_policy)
    config = AutoConfig.from_pretrained(tiny_policy)
    if request.param == "qwen2_5_vl":
        images = Qwen2VLImageProcessor(patch_size=14, size={"shortest_edge": 28 * 28, "longest_edge": 1 << 20})
        video = found.video_processor
        found = Qwen2_5_VLProcessor(images, found.tokenizer, video, chat_template=found.chat_template)
        config = Qwen2_5_VLConfig(
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            vision_start_token_id=config.vision_start_token_id,
        )
    return with_positions(found, config)


def with_positions(processor: Any, config: Any) -> Any:
    """What verl binds to a processor when it loads one."""
    import types

    from transformers import AutoModelForImageTextToText

    model_class = AutoModelForImageTextToText._model_mapping[type(config)]
    inner = {"qwen3_vl": "Qwen3VLModel", "qwen2_5_vl": "Qwen2_5_VLModel"}[config.model_type]
    module = __import__(model_class.__module__, fromlist=[inner])
    processor.config = config
    processor.get_rope_index = types.MethodType(getattr(module, inner).get_rope_index, processor)
    if hasattr(getattr(module, inner), "get_vision_position_ids"):
        processor.get_vision_position_ids = types.MethodType(getattr(module, inner).get_vision_position_ids, processor)
    return processor


def workers(processor: Any) -> tuple[Any, Any]:
    """(verl's agent loop process, ours) without their start."""
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    from verl_ext.inference.loop_worker import LoopWorker

    found = []
    for base in (AgentLoopWorkerTQ.__ray_metadata__.modified_class, LoopWorker):
        worker = base.__new__(base)
        worker.processor, worker.tokenizer, worker.mm_processor_kwargs = processor, processor.tokenizer, {}
        found.append(worker)
    return found[0], found[1]


@pytest.mark.parametrize("shown", [(), (3, 0, 0), (7,)])
def test_equals_what_verl_makes_of_decoded_images(processor: Any, sample: Sample, shown: tuple[int, ...]) -> None:
    """Pixels, grids and positions, for both generations of Qwen-VL; a frame may come twice, and at two sizes."""
    chat = ChatFormat.from_processor(processor)
    f = chat.factor
    parts = [FramePart(t, f * (2 + t % 2), f * 3) for t in shown] + [FramePart(t, 2 * f, 2 * f) for t in shown[:1]]
    images = [load_frame_resized(sample.clip, p.frame, p.height, p.width) for p in parts]
    pads = [[chat.vision_start, *[chat.image_pad] * chat.num_tokens(p), chat.vision_end] for p in parts]
    words = processor.tokenizer.encode("what moves", add_special_tokens=False)
    ids = torch.tensor([*words, *(t for pad in pads for t in [*pad, *words]), chat.im_end])
    theirs, ours = workers(processor)
    base = {"mm_processor_kwargs": None}
    decoded = SimpleNamespace(multi_modal_data={"images": images} if images else {}, **base)
    by_reference = SimpleNamespace(extra_fields={"picture_inputs": picture_inputs(parts, chat)}, **base)
    expected = theirs._compute_multi_modal_inputs(decoded, ids)
    found = ours._compute_multi_modal_inputs(by_reference, ids)
    mask = torch.ones_like(ids)[None]
    positions = [w._compute_position_ids(ids[None], mask, x) for w, x in ((theirs, expected), (ours, found))]
    assert torch.equal(*positions)
    pictures = pictures_of(sample, found)
    if pictures:
        found["pixel_values"] = PixelValues(processor.image_processor, store=PictureStore(1 << 20)).of(pictures)
        del found["pictures"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected), "to the last bit"
    assert not by_reference.extra_fields, "what travels once does not travel twice"


def test_a_supervised_conversation_refers_to_the_same_pixels(
    processor: Any, tiny_recipe: Callable[..., Any], activate: Callable[[Any], Any]
) -> None:
    from verl_ext.supervised.dataset import SFTDataset

    activate(tiny_recipe("sft"))
    data = SFTDataset(["train"], processor.tokenizer, None, processor)
    store = PictureStore(1 << 20)
    for i in range(len(data)):
        item, (conversation, _) = data[i], data._replay(*data.items[i])
        expected = processor.image_processor(images=conversation.images(), return_tensors="pt")
        pictures = pictures_of(Sample.from_dict(item["sample"]), item["multi_modal_inputs"])
        assert torch.equal(PixelValues(processor.image_processor, store=store).of(pictures), expected["pixel_values"])
        assert torch.equal(torch.as_tensor(item["multi_modal_inputs"]["image_grid_thw"]), expected["image_grid_thw"])
    assert store.read < store.asked


def test_vllm_tells_images_apart_by_their_mark() -> None:
    """Its hash of a marked image does not look at pixels, and differs where they do."""
    pytest.importorskip("vllm")
    from PIL import Image
    from vllm.multimodal.hasher import MultiModalHasher

    from rollout.pictures import mark
    from verl_ext.inference.vllm_worker import name_for_vllm

    def hashed(colour: str) -> list[Any]:
        image = mark(Image.new("RGB", (64, 32), colour))
        name_for_vllm(image)
        return list(MultiModalHasher.serialize_item(image))

    assert hashed("red") == hashed("red") != hashed("blue")
    assert [len(part) for part in hashed("red")] == [16]


def test_the_policys_own_masks_travel_as_text_and_are_drawn_where_pixels_are_made(
    processor: Any, sample: Sample
) -> None:
    """Log-prob pass, reference and update see what the dialogue showed."""
    from rewards.truth import truth
    from rollout.overlay import draw_mask

    chat, clip = ChatFormat.from_processor(processor), sample.clip
    side = 4 * chat.factor
    rle = next(rle for rle in truth(sample).rles[0] if rle is not None)  # any mask will do
    counts = rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode()
    plain = [FramePart(0, side, side), FramePart(3, side, side)]
    shown = [*plain, FramePart(3, side, side, counts)]
    inputs = picture_inputs(shown, chat)
    assert inputs[DRAWN].dtype == torch.uint8 and DRAWN not in picture_inputs(plain, chat)
    pictures = pictures_of(sample, inputs)
    assert [p.drawn for p in pictures] == [None, None, counts]
    images = [load_frame_resized(clip, p.frame, side, side) for p in shown]
    images[2] = draw_mask(images[2], counts, (clip.height, clip.width))
    expected = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    made = PixelValues(processor.image_processor, store=PictureStore(1 << 20)).of(pictures)
    torch.testing.assert_close(made, expected)
    rows = inputs["image_grid_thw"].prod(dim=1).tolist()
    assert not torch.equal(*made.split(rows)[1:])
