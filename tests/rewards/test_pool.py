"""The pool with real Ray actors: same answers as direct calls, also when workers are killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rewards.pool import SegmenterPool
from rewards.pool.affinity import AffinityQueue, Job
from rewards.segmenter import (
    BoxRequest,
    MaskRequest,
    PropagateRequest,
    RequestScorer,
    Segmenter,
    SegRequest,
    encode_rles,
)
from rollout.errors import DataError, WorkerError
from rollout.types import Clip, Masklets
from tests.rewards.segmenter.clips import FRAMES, write_clip
from tests.rewards.segmenter.conftest import SMALL, random_segmenter

ClipWithTruth = tuple[Clip, Masklets]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ClipWithTruth]:
    root = tmp_path_factory.mktemp("clips")
    return [write_clip(root, name) for name in ("first", "second", "third")]


@pytest.fixture(scope="module")
def local() -> Segmenter:
    return random_segmenter()


@pytest.fixture(scope="module")
def pool(local: Segmenter) -> Iterator[SegmenterPool]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    try:
        with SegmenterPool(SMALL, local.sam2_model.state_dict(), num_workers=2, max_retries=2) as pool:
            yield pool
    finally:
        ray.shutdown()


def seg_request(clip: Clip, masklets: Masklets, seed: int) -> SegRequest:
    rng = np.random.default_rng(seed)
    states = [rng.normal(size=SMALL.prompt_width).astype(np.float32) for _ in range(2)]
    return SegRequest(clip, masklets, (0, 3, 5), states, (3, 1))


def group(clips: list[ClipWithTruth], rollouts: int = 4) -> list[SegRequest]:
    return [seg_request(*clip, seed) for clip in clips for seed in range(rollouts)]


def assert_equal(scores: list[Any], expected: list[Any]) -> None:
    for a, b in zip(scores, expected, strict=True):
        np.testing.assert_allclose(a.video_ious, b.video_ious, atol=2e-3)
        np.testing.assert_allclose(a.keyframe_ious, b.keyframe_ious, atol=2e-3)


def test_every_kind_of_request_equals_direct_calls(
    pool: SegmenterPool, local: Segmenter, clips: list[ClipWithTruth]
) -> None:
    clip, masklets = clips[0]
    state = np.random.default_rng(0).normal(size=SMALL.prompt_width).astype(np.float32)
    requests = [
        *group(clips),
        PropagateRequest(clip, 2, state, masklets),
        BoxRequest(clip, (0, 1, 4), 1, [(6.0, 5.0, 18.0, 17.0)], masklets),
    ]
    scores, expected = pool.score(requests), RequestScorer(local).score(requests)
    assert_equal(scores[:-2], expected[:-2])
    assert scores[-2].ious == pytest.approx(expected[-2].ious, abs=2e-3)
    assert scores[-1].ious == pytest.approx(expected[-1].ious, abs=2e-3)
    assert len({s.video_ious for s in scores[:-2]}) > 1


def test_each_clip_is_encoded_once_for_its_group(pool: SegmenterPool, clips: list[ClipWithTruth]) -> None:
    pool.score(group(clips))
    before = pool.encoded_frames()
    pool.score(group(clips, rollouts=6))
    assert pool.encoded_frames() == before


def test_ground_truth_masks_score_one(pool: SegmenterPool, clips: list[ClipWithTruth]) -> None:
    requests = []
    for clip, masklets in clips:
        rles = encode_rles(np.stack([masklets.union(t) for t in range(FRAMES)]))
        frames = (0, 2, 5)
        turns = [[rles[t] for t in frames]] * 2
        requests.append(MaskRequest(clip, masklets, frames, turns, (3, 5), [rles[3], rles[5]]))
    for scores in pool.score(requests):
        assert scores.video_ious == ((1.0, 1.0, 1.0),) * 2 and scores.keyframe_ious == (1.0, 1.0)


def test_a_clip_that_cannot_be_read_names_itself_and_others_go_on(
    pool: SegmenterPool, local: Segmenter, clips: list[ClipWithTruth], tmp_path: Path
) -> None:
    broken, masklets = write_clip(tmp_path, "broken")
    Path(broken.frames[3]).write_bytes(b"not an image")
    sound = seg_request(*clips[0], 7)
    futures = pool.submit([seg_request(broken, masklets, 0), sound, seg_request(*clips[1], 7)])
    with pytest.raises(DataError, match=r"broken"):
        futures[0].result(60)
    assert_equal([futures[1].result(60)], RequestScorer(local).score([sound]))
    assert len(futures[2].result(60).video_ious) == 2
    with pytest.raises(DataError, match=r"00003\.png"):
        pool.score([sound, seg_request(broken, masklets, 0)])


def test_a_request_that_breaks_the_code_reaches_its_caller(pool: SegmenterPool, clips: list[ClipWithTruth]) -> None:
    clip, masklets = clips[0]
    wrong = SegRequest(clip, masklets, (0,), [np.zeros(5, dtype=np.float32)], (0,))
    good = seg_request(clip, masklets, 3)
    futures = pool.submit([wrong, good])
    with pytest.raises(WorkerError, match=r"clip first: SegRequest failed: states must be \(2, 32\)"):
        futures[0].result(60)
    assert len(futures[1].result(60).video_ious) == 2


def test_new_decoder_weights_change_answers_and_outlive_a_killed_worker(
    pool: SegmenterPool, local: Segmenter, clips: list[ClipWithTruth]
) -> None:
    changed = random_segmenter()
    for p in changed.trainable_parameters():
        p.data.mul_(0.5)
    requests = group(clips)
    before, expected = pool.score(requests), RequestScorer(changed).score(requests)
    try:
        pool.load_decoder(changed.decoder_state_dict())
        assert_equal(pool.score(requests), expected)
        assert pool.score(requests) != before
        for worker in pool.workers():
            ray.kill(worker)
        assert_equal(pool.score(requests), expected)
    finally:
        pool.load_decoder(local.decoder_state_dict())
    assert_equal(pool.score(requests), before)


def test_a_worker_killed_at_work_is_replaced_and_its_work_done_again(
    pool: SegmenterPool, local: Segmenter, clips: list[ClipWithTruth]
) -> None:
    clip, masklets = clips[2]
    rng = np.random.default_rng(3)
    states = rng.normal(size=(150, SMALL.prompt_width)).astype(np.float32)
    requests = [SegRequest(clip, masklets, tuple(range(FRAMES)), [s] * 3, (0, 1, 2)) for s in states]
    restarts, futures = pool.restarts, pool.submit(requests)
    next(iter(futures)).result(120)
    assert not all(f.done() for f in futures), "the kill must come in the middle"
    for worker in pool.workers():
        ray.kill(worker)
    scores = [f.result(120) for f in futures]
    assert pool.restarts > restarts
    assert_equal(scores, RequestScorer(local).score(requests))


class DeadlyState:
    """Ends the process that unpickles it, unless that is the one that made it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _exit_elsewhere, (os.getpid(),)


def _exit_elsewhere(home: int) -> DeadlyState:
    if os.getpid() != home:
        os._exit(1)
    return DeadlyState()


def test_a_request_that_kills_every_worker_fails_alone(pool: SegmenterPool, clips: list[ClipWithTruth]) -> None:
    clip, masklets = clips[0]
    poison = SegRequest(clip, masklets, (0,), [DeadlyState()], (0,))  # type: ignore[list-item]
    healthy = seg_request(clip, masklets, 2)
    with SegmenterPool(SMALL, num_cpus=0, max_retries=1) as other:
        futures = other.submit([poison, healthy])
        with pytest.raises(WorkerError, match=r"clip first: SegRequest failed: its worker died 2 times"):
            futures[0].result(120)
        assert len(futures[1].result(120).video_ious) == 2


def test_a_pool_that_cannot_be_built_says_why(pool: SegmenterPool, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="no such SAM 2 checkpoint"):
        SegmenterPool(SMALL, tmp_path / "absent.pt", num_cpus=0)


def test_closing_fails_what_is_left_and_takes_nothing_more(pool: SegmenterPool, clips: list[ClipWithTruth]) -> None:
    short_lived = SegmenterPool(SMALL, num_cpus=0)
    futures = short_lived.submit(group(clips, rollouts=200))
    short_lived.close()
    outcomes = [f.exception(30) for f in futures]
    assert any(isinstance(e, WorkerError) and "closed" in str(e) for e in outcomes)
    with pytest.raises(WorkerError, match="closed"):
        short_lived.score(group(clips))
    short_lived.close()


def job_for(name: str, alone: bool = False) -> Job:
    clip = Clip(name, (f"{name}/0.jpg",), 4, 4)
    job = Job(SegRequest(clip, Masklets(4, 4, (), 1), (0,), [None], (0,)), alone=alone)
    return job


def test_waiting_requests_of_a_clip_leave_together_and_stay_with_their_worker() -> None:
    queue = AffinityQueue(num_workers=1, max_requests_per_call=3)
    queue.put([job_for(n) for n in ("a", "b", "a", "a", "a")])
    assert [[j.request.clip.name for j in queue.take(0)] for _ in range(3)] == [["a"] * 3, ["b"], ["a"]]

    queue = AffinityQueue(num_workers=4, max_requests_per_call=64)
    queue.put([job_for(f"clip{i % 8}") for i in range(32)])
    homes: dict[str, set[int]] = {}
    for worker in range(4):
        while queue._waiting[worker]:
            for job in queue.take(worker):
                homes.setdefault(job.request.clip.name, set()).add(worker)
    assert len(homes) == 8 and all(len(h) == 1 for h in homes.values())
    assert len(set.union(*homes.values())) >= 3


def test_clips_spread_anew_once_their_homes_are_forgotten() -> None:
    queue = AffinityQueue(num_workers=2, max_requests_per_call=64)

    def drained(worker: int) -> list[str]:
        out = []
        while queue._waiting[worker]:
            out += [job.request.clip.name for job in queue.take(worker)]
        queue._running[worker] = 0
        return out

    queue.put([job_for(f"clip{i}") for i in range(8)])
    crowd = drained(0)
    drained(1)
    queue.put([job_for(name) for name in crowd])
    assert len(crowd) > 3 and drained(0) == crowd  # a batch may happen to hold one worker's clips only
    queue.put([job_for("held")])
    home = 0 if queue._waiting[0] else 1
    queue.forget_homes()
    queue.put([job_for(name) for name in ["held", *crowd]])
    assert [job.request.clip.name for job in queue._waiting[home]][:2] == ["held", "held"]
    assert drained(0) and drained(1)


def test_a_retried_request_leaves_alone() -> None:
    queue = AffinityQueue(num_workers=1, max_requests_per_call=64)
    queue.put([job_for("a", alone=True), job_for("a"), job_for("a")])
    assert [len(queue.take(0)) for _ in range(2)] == [1, 2]


def test_closing_wakes_a_waiting_worker() -> None:
    queue = AffinityQueue(num_workers=1, max_requests_per_call=1)
    taken: list[list[Job]] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(0)))
    thread.start()
    assert queue.close() == []
    thread.join(10)
    assert taken == [[]] and not queue.put([job_for("a")])
