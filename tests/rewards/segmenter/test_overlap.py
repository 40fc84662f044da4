"""The host works beside the device: results a step later, frames ahead of the encoder."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rewards.segmenter import FeatureCache, PropagateRequest, RequestScorer, Segmenter, SegRequest
from rewards.segmenter.cache import CHUNKS_AHEAD, ENCODE_CHUNK
from rewards.segmenter.overlap import Fetched, ReadAhead, fetch, one_behind
from rollout.errors import DataError
from rollout.types import Clip, Masklets


def test_a_result_is_used_once_the_next_one_is_under_way() -> None:
    log: list[str] = []

    def work() -> Iterator[Fetched]:
        for i in range(3):
            log.append(f"begin {i}")
            yield fetch(i, torch.tensor([i]))

    for tag, (value,) in one_behind(work()):
        assert int(value) == tag
        log.append(f"use {tag}")
    assert log == ["begin 0", "begin 1", "use 0", "begin 2", "use 1", "use 2"]
    assert list(one_behind(())) == []


def test_a_chunk_is_read_once_and_its_error_is_the_takers() -> None:
    ahead, reads = ReadAhead(), []

    def read() -> torch.Tensor:
        reads.append(threading.current_thread().name)
        return torch.arange(6).reshape(3, 2)

    ahead.begin(["a", "b", "c"], read)
    ahead.begin(["c", "d"], pytest.fail)  # overlaps with what is being read: nothing begins
    assert "b" in ahead and "d" not in ahead
    assert ahead.take("b").tolist() == [2, 3] and ahead.take("a").tolist() == [0, 1]
    assert "a" not in ahead and len(ahead) == 1
    assert len(reads) == 1 and reads[0] != threading.main_thread().name

    def broken() -> torch.Tensor:
        raise DataError("frame x: unreadable")

    ahead.begin(["x", "y"], broken)
    with pytest.raises(DataError, match="frame x"):
        ahead.take("y")
    ahead.forget()
    assert len(ahead) == 0


class Frames:
    """Stands for files; a frame named ``bad`` cannot be read."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, clip: Clip, indices: Sequence[int]) -> Any:
        self.threads.add(threading.current_thread().name)
        self.read += indices
        for t in indices:
            if clip.frames[t] == "bad":
                raise DataError(f"clip {clip.name}: frame {t}: unreadable")
        return [np.full((20, 30, 3), t % 251, dtype=np.uint8) for t in indices]


def test_chunks_are_read_by_threads_and_each_frame_once(segmenter: Segmenter) -> None:
    frames = Frames()
    cache = FeatureCache(segmenter, 64, frames)
    clip = Clip("clip", tuple(map(str, range(40))), 20, 30)
    ahead = cache.features(clip, range(40))
    assert sorted(frames.read) == list(range(40)) and threading.main_thread().name not in frames.threads
    assert cache.encoded_frames == 40 > ENCODE_CHUNK
    plain = segmenter.preprocess([np.full((20, 30, 3), t, dtype=np.uint8) for t in range(40)])
    with torch.no_grad():
        for a, b in zip(ahead.levels, segmenter.encode(plain, ENCODE_CHUNK).levels, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_frame_that_cannot_be_read_is_raised_and_nothing_lingers(segmenter: Segmenter) -> None:
    frames = Frames()
    cache = FeatureCache(segmenter, 64, frames)
    names = [str(t) for t in range(ENCODE_CHUNK * CHUNKS_AHEAD)]
    names[ENCODE_CHUNK + 1] = "bad"
    clip = Clip("clip", tuple(names), 20, 30)
    with pytest.raises(DataError, match=f"clip clip: frame {ENCODE_CHUNK + 1}"):
        cache.features(clip, range(len(names)))
    assert len(cache._ahead) == 0
    assert cache.features(clip, range(ENCODE_CHUNK)).num_frames == ENCODE_CHUNK
    with pytest.raises(DataError, match="unreadable"):
        cache.features(clip, [ENCODE_CHUNK + 1])


def test_few_frames_are_read_by_several_threads(segmenter: Segmenter) -> None:
    """Each waits until all four are being read."""
    together = threading.Barrier(4)

    def load(clip: Clip, indices: Sequence[int]) -> Any:
        together.wait(timeout=30)
        return [np.full((20, 30, 3), t, dtype=np.uint8) for t in indices]

    clip = Clip("clip", tuple("abcd"), 20, 30)
    assert FeatureCache(segmenter, 64, load).features(clip, range(4)).num_frames == 4


def test_later_requests_are_read_while_the_first_are_worked_on(segmenter: Segmenter) -> None:
    """Frame 0 of the first request is not there before frame 5 of the last one is asked for."""
    frames, asked = Frames(), threading.Event()

    def load(clip: Clip, indices: Sequence[int]) -> Any:
        if 5 in indices:
            asked.set()
        assert asked.wait(timeout=30)
        return frames(clip, indices)

    clip = Clip("clip", tuple(map(str, range(6))), 20, 30)
    state = np.zeros(segmenter.prompt_width, dtype=np.float32)
    nothing = Masklets(20, 30, ((None,) * 6,), 6)
    scorer = RequestScorer(segmenter, load=load)
    drawn = PropagateRequest(clip, 5, state, frames=(3, 5))
    undrawn = PropagateRequest(clip, 4, None, frames=(2, 4))
    scorer.score([SegRequest(clip, nothing, (0, 1), [state, None], [1, 2]), undrawn, drawn])
    assert sorted(frames.read) == [0, 1, 3, 5] and len(scorer.cache._ahead) == 0


def test_what_was_begun_in_vain_is_let_go_of(segmenter: Segmenter) -> None:
    """Frames of the second request, once the first one could not be read."""
    frames = Frames()
    clip = Clip("clip", ("0", "bad", "2", "3"), 20, 30)
    state = np.zeros(segmenter.prompt_width, dtype=np.float32)
    scorer = RequestScorer(segmenter, load=frames)
    spoilt, sound = scorer.score([PropagateRequest(clip, f[0], state, frames=f) for f in ((0, 1), (2, 3))])
    assert isinstance(spoilt, DataError) and not isinstance(sound, DataError)
    assert len(scorer.cache._ahead) == 0 and frames.read.count(2) <= 2


def test_the_first_chunk_of_a_long_clip_is_read_by_several_threads(segmenter: Segmenter) -> None:
    """At the walk's start and where it turns the encoder waits for it; what follows is read in whole chunks."""
    read: list[list[int]] = []

    def load(clip: Clip, indices: Sequence[int]) -> Any:
        read.append(list(indices))
        return [np.full((20, 30, 3), t, dtype=np.uint8) for t in indices]

    clip = Clip("clip", tuple(map(str, range(60))), 20, 30)
    state = np.zeros(segmenter.prompt_width, dtype=np.float32)
    scorer = RequestScorer(segmenter, max_resident_frames=16, load=load)
    scorer.score([PropagateRequest(clip, 30, state)])
    awaited, ahead = [r for r in read if len(r) == 1], [r for r in read if len(r) > 1]
    assert {*range(30, 38), *range(22, 30)} <= {t for (t,) in awaited}
    assert all(len(r) == ENCODE_CHUNK for r in ahead if 0 not in r and 59 not in r)
    assert set(range(60)) == {t for r in read for t in r}
