"""The mask warm-up learns, repeats itself, and leaves the segmenter's flags as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards.segmenter import Segmenter
from rollout.errors import DataError
from rollout.types import Expression, Sample
from tests.rewards.segmenter.clips import FRAMES, write_clip
from tests.rewards.segmenter.conftest import SMALL
from verl_ext.tiny.warm_up import WarmUpSettings, warm_up_segmenter
from verl_ext.tiny.warm_up_clips import collect_clips, soft_targets
from verl_ext.tiny.warm_up_tasks import TaskSettings

SHORT = WarmUpSettings(lr=2e-3, tasks=TaskSettings(frames_per_step=4, propagated_frames=3))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    root = tmp_path_factory.mktemp("warm_up")
    out = []
    for i in range(4):
        clip, masklets = write_clip(root, f"clip{i}")
        out.append(Sample(clip, Expression("0", "both squares", (f"{i}red", f"{i}blue")), masklets))
    return out


def words(samples: Sequence[Sample]) -> dict[str, tuple[str, str]]:
    return {a: (a[1:], "square") for s in samples for a in s.expression.anno_ids}


class Told(list[tuple[int, int]]):
    """A progress callback that remembers."""

    def __call__(self, done: int, total: int, what: str) -> None:
        assert "mask warm-up" in what
        self.append((done, total))


def test_masks_improve_on_a_held_out_clip(samples: list[Sample]) -> None:
    before = warm_up_segmenter(Segmenter(SMALL), samples, words(samples), steps=0, settings=SHORT)
    after = warm_up_segmenter(Segmenter(SMALL), samples, words(samples), steps=60, settings=SHORT)
    assert after["frame_pixel_iou"] > before["frame_pixel_iou"] + 0.2
    assert set(after) == {
        *("frame_pixel_iou", "frame_iou", "frame_absent"),
        *("propagated_j", "propagated_absent", "box_j", "box_absent", "click_iou"),
    }
    assert all(0 <= v <= 1 for v in after.values())


def test_same_seed_same_weights_and_flags_are_kept(samples: list[Sample]) -> None:
    runs = []
    for seed in (0, 0, 1):
        segmenter = Segmenter(SMALL)
        segmenter.freeze_all_but_decoder()
        torch.manual_seed(7)
        told = Told()
        warm_up_segmenter(segmenter, samples, words(samples), 6, seed, told, SHORT)
        assert told == [(i + 1, 6) for i in range(6)]
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7)))
        assert not segmenter.sam2_model.no_mem_embed.requires_grad
        assert all(p.requires_grad and p.grad is None for p in segmenter.trainable_parameters())
        runs.append(torch.cat([p.detach().flatten() for p in segmenter.parameters()]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_every_part_of_sam2_is_trained(samples: list[Sample]) -> None:
    segmenter = Segmenter(SMALL)
    before = {k: v.clone() for k, v in segmenter.sam2_model.state_dict().items()}
    warm_up_segmenter(segmenter, samples, words(samples), 10, settings=SHORT)
    changed = {k.split(".")[0] for k, v in segmenter.sam2_model.state_dict().items() if not torch.equal(v, before[k])}
    assert {"image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder", "obj_ptr_proj"} <= changed


def test_a_query_means_all_objects_with_its_words(samples: list[Sample]) -> None:
    clip = collect_clips(samples, words(samples))[0]
    masklets = samples[0].masklets
    assert masklets is not None
    np.testing.assert_array_equal(clip.mask(("red", "square"), 1), masklets.object_mask(0, 1))
    np.testing.assert_array_equal(clip.mask(("square",), 1), masklets.union(1))
    assert not clip.mask(("green",), 1).any()
    assert clip.visible(4) == [("blue", "square")] and clip.visible(FRAMES - 1) == []
    rows, columns = np.nonzero(masklets.object_mask(1, 2))
    assert clip.box(("blue",), 2) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_click_lies_on_the_object_whose_mask_comes_with_it(samples: list[Sample]) -> None:
    clip = collect_clips(samples, words(samples))[0]
    masklets = samples[0].masklets
    assert masklets is not None
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        (x, y), mask = clip.click(1, rng)
        assert mask[int(y), int(x)] and x % 1 == y % 1 == 0.5
        seen |= {k for k in range(2) if np.array_equal(mask, masklets.object_mask(k, 1))}
    assert seen == {0, 1}, "any object, and each by itself"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Training is the same twice for a number of threads, which other tests of the process may change."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_clicks_are_learnt_where_they_are_asked_for(samples: list[Sample], one_thread: None) -> None:
    clicks = replace(
        SHORT, tasks=replace(SHORT.tasks, frame_box_share=0.0, frame_click_share=1.0), single_frame_share=1.0
    )
    found = [
        warm_up_segmenter(Segmenter(SMALL), samples, words(samples), steps=80, settings=s)["click_iou"]
        for s in (replace(SHORT, single_frame_share=1.0), clicks)
    ]
    assert found[1] > found[0] + 0.1


def test_targets_are_area_shares() -> None:
    mask = np.zeros((4, 4), dtype=np.bool_)
    mask[:, 0] = True
    assert soft_targets([mask], 2).tolist() == [[[0.5, 0.0], [0.5, 0.0]]]


def test_samples_without_described_objects_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="none of the 4 samples has one of the 1 described objects"):
        warm_up_segmenter(Segmenter(SMALL), samples, {"elsewhere": "red"}, steps=1)


def test_an_unreadable_frame_names_itself(samples: list[Sample], tmp_path: Path) -> None:
    clip, masklets = write_clip(tmp_path, "torn")
    for frame in clip.frames:
        Path(frame).write_bytes(b"torn")
    torn = [Sample(clip, Expression("0", "x", ("0red", "0blue")), masklets)]
    with pytest.raises(DataError, match="torn"):
        warm_up_segmenter(Segmenter(SMALL), torn, words(samples), steps=1, settings=SHORT)


def test_a_mask_that_is_not_stable_yet_is_trained_all_the_same(samples: list[Sample]) -> None:
    """SAM 2's decoder exchanges such a mask of a box when it is asked, which would teach another token in its place."""
    segmenter = Segmenter(SMALL)
    decoder = segmenter.sam2_model.sam_mask_decoder
    modes: list[bool] = []
    decoder.register_forward_pre_hook(lambda module, given: modes.append(module.training))
    steps = 4
    warm_up_segmenter(segmenter, samples, words(samples), steps=steps, settings=SHORT)
    assert all(modes[:steps]) and not modes[-1], "in training, then measured as it is used"
    assert not decoder.training
