"""Box dialogues (Veason-R1) through the whole path: scripted policy, real tiny SAM 2, results and failures on disk."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.inference.cluster import Cluster
from eval.inference.dialogue import Dialogue
from eval.inference.fleet import Fleet
from eval.inference.pipeline import Broken
from eval.inference.run import Inferred, evaluate, infer
from eval.results.failures import FAILED_FILE, Failure, read_failures
from eval.results.results_file import read_results
from eval.scores.in_memory import score_results
from rewards.segmenter import BoxRequest, RequestScorer
from rollout.errors import DataError, WorkerError
from rollout.types import Sample, StopReason
from tests.eval.clips import FRAMES, samples
from tests.eval.scripted import BOXES, LocalPool, Say, ScriptedWorker, box_reply, true_box
from tests.rewards.segmenter.conftest import random_segmenter
from verl_ext.scoring.rollouts import scoring_of

SEGMENTER = random_segmenter()


@pytest.fixture
def expressions(tmp_path: Path) -> list[Sample]:
    """4 clips x 3 expressions; the third of each has no target."""
    return samples(tmp_path / "frames")


@pytest.fixture
def truth(expressions: list[Sample]) -> dict[tuple[str, str], Sample]:
    return {(s.clip.name, s.expression.id): s for s in expressions}


def cluster_of(say: Say | ScriptedWorker, capacity: int = 4) -> tuple[Cluster, ScriptedWorker, LocalPool]:
    worker = say if isinstance(say, ScriptedWorker) else ScriptedWorker(say)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    fleet = Fleet(lambda slot: worker, [worker], capacity, events.put)
    pool = LocalPool(SEGMENTER)
    scoring = scoring_of(BOXES.environment, BOXES.environment_settings, {})
    return Cluster(fleet, events, pool, scoring), worker, pool


def run(say: Say, expressions: Iterable[Sample | Broken], out: Path, **more: Any) -> Inferred:
    return infer(cluster_of(say)[0], expressions, out, **more)


def test_boxes_at_a_keyframe_become_masks_of_the_whole_clip(
    expressions: list[Sample], truth: dict[tuple[str, str], Sample], tmp_path: Path
) -> None:
    cluster, _, pool = cluster_of(true_box(truth))
    done = infer(cluster, expressions, tmp_path / "out")
    assert (done.done, done.failed) == (12, 0)
    records = {r.key: r for r in read_results(done.results)}
    asked = [request for call in pool.calls for request in call]
    for request in asked:
        assert isinstance(request, BoxRequest) and request.masklets is None
        assert request.frames == list(range(FRAMES)) and request.keyframe == 6
    alone = [(r.clip.name, answer.rles) for r in asked for answer in RequestScorer(SEGMENTER).score([r])]  # type: ignore[union-attr]
    for sample in expressions:
        record = records[sample.clip.name, sample.expression.id]
        assert record.stop is StopReason.ANSWERED and len(record.turns) == 1 and record.turns[0].keyframe == 6
        assert record.spatial_frames == (0, 3, 6, 9) and record.tokens > 10
        assert (sample.clip.name, record.prediction) in alone
        assert record_has(record) == (sample.expression.type_id != 2), "no boxes predict nothing, a box something"
    scores = score_results(records.values(), expressions)
    assert not scores.missing and 0 < scores.jf < 100


def record_has(record: Any) -> bool:
    from pycocotools import mask as coco_mask

    rles = [{**r, "counts": r["counts"].encode()} for r in record.prediction if r is not None]
    return any(int(coco_mask.area(r)) for r in rles)


def test_a_clips_expressions_reach_the_pool_together(expressions: list[Sample], tmp_path: Path) -> None:
    cluster, _, pool = cluster_of(lambda sample: box_reply(3, [10, 10, 60, 60]), capacity=6)
    infer(cluster, expressions, tmp_path / "out")
    assert all(len({r.clip.name for r in call}) == 1 for call in pool.calls)
    assert max(len(call) for call in pool.calls) > 1
    assert pool.scorer.cache.encoded_frames == 4 * FRAMES, "each clip is encoded once"


def test_a_reply_that_does_not_parse_is_a_result_and_no_failure(expressions: list[Sample], tmp_path: Path) -> None:
    done = run(lambda sample: "I do not know", expressions[:1], tmp_path)
    (record,) = read_results(done.results)
    assert done.failed == 0 and record.stop is StopReason.BAD_ACTION and not record_has(record)


def test_an_unreadable_frame_fails_by_name_scores_nothing_and_is_tried_again(
    expressions: list[Sample], truth: dict[tuple[str, str], Sample], tmp_path: Path
) -> None:
    shown, unshown = Path(expressions[0].clip.frames[3]), Path(expressions[3].clip.frames[4])
    whole = shown.read_bytes(), unshown.read_bytes()
    shown.write_bytes(b"no image")
    unshown.unlink()
    say = true_box(truth)
    done = run(say, expressions, tmp_path / "out")
    assert (done.done, done.failed) == (7, 5)  # a no-target answer needs no masks, so it does not meet the second
    failures = read_failures(tmp_path / "out" / FAILED_FILE)
    assert {f["stage"] for f in failures} == {"data"}
    assert all(str(shown if f["clip"] == "clip0" else unshown) in f["reason"] for f in failures)
    scores = score_results(read_results(done.results), expressions)
    assert len(scores.missing) == 5
    assert all(r.jf == 0 for r in scores.expressions if r.missing)

    shown.write_bytes(whole[0])
    unshown.write_bytes(whole[1])
    cluster, worker, _ = cluster_of(say)
    again = infer(cluster, expressions, tmp_path / "out")
    assert (again.done, again.failed) == (12, 0) and len(worker.asked) == 5
    assert not (tmp_path / "out" / FAILED_FILE).exists()


class Killed(BaseException): ...


@pytest.mark.parametrize("after", [1, 5])
def test_a_killed_job_goes_on_and_does_nothing_twice(
    expressions: list[Sample], truth: dict[tuple[str, str], Sample], tmp_path: Path, after: int
) -> None:
    results = tmp_path / "out" / "results.jsonl"

    def die(done: int, total: int, what: str) -> None:
        if done >= after:
            raise Killed

    say = true_box(truth)
    with pytest.raises(Killed):
        run(say, expressions, tmp_path / "out", progress=die)
    kept = len(read_results(results))
    assert kept >= after
    with results.open("ab") as file:
        file.write(b'{"clip": "clip3", "expre')  # what a kill in the middle of a write leaves
    cluster, worker, _ = cluster_of(say)
    done = infer(cluster, expressions, tmp_path / "out")
    assert done.done == 12 and len(worker.asked) == 12 - kept
    whole = run(say, expressions, tmp_path / "whole")
    key = lambda record: record.key  # noqa: E731
    assert sorted(read_results(results), key=key) == sorted(read_results(whole.results), key=key)


class Silent(ScriptedWorker):
    """Holds every dialogue until it is asked for."""

    def __init__(self) -> None:
        super().__init__(lambda sample: box_reply(0))
        self.held: list[tuple[Future[Any], dict[str, Any]]] = []

    def run(self, sample: dict[str, Any], settings: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.held.append((future, sample))
        return future


def test_samples_are_read_as_they_are_needed(expressions: list[Sample], tmp_path: Path) -> None:
    worker, read = Silent(), list[str]()
    cluster, _, _ = cluster_of(worker, capacity=2)

    def source() -> Iterator[Sample]:
        for i in range(1000):
            sample = expressions[i % 3]
            read.append(str(i))
            yield replace(sample, expression=replace(sample.expression, id=str(i)))

    most = 0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal most
        most = max(most, len(read) - done)
        if done >= 40:
            raise Killed
        for future, given in worker.held:
            future.set_result(worker.talk(given, None))
        worker.held.clear()

    with pytest.raises(Killed):
        infer(cluster, source(), tmp_path / "out", progress=progress)
    assert 0 < most <= 9, "four times what the worker holds, and the one just read"


def test_what_a_data_set_is_wrong_about_is_named_and_the_rest_goes_on(
    expressions: list[Sample], tmp_path: Path
) -> None:
    broken = Broken("clip9", "0", DataError("mask_dict.json: annotation 7 has 3 masks for 10 frames"))
    done = run(lambda s: box_reply(0), [expressions[0], broken, expressions[1]], tmp_path)
    assert (done.done, done.failed) == (2, 1)
    assert read_failures(tmp_path / FAILED_FILE) == [
        {"clip": "clip9", "expression_id": "0", "stage": "data", "reason": str(broken.error)}
    ]


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../x", "a\\b", ""])
def test_names_that_leave_the_folder_cost_their_own_expression_and_no_other(
    expressions: list[Sample], tmp_path: Path, name: str
) -> None:
    odd = replace(expressions[0], clip=replace(expressions[0].clip, name=name))
    done = run(lambda s: box_reply(0), [odd, expressions[1]], tmp_path)
    assert (done.done, done.failed) == (1, 1)
    (failure,) = read_failures(tmp_path / FAILED_FILE)
    assert failure["clip"] == name and "not a plain name" in failure["reason"]


class Failing(ScriptedWorker):
    def talk(self, given: dict[str, Any], settings: Any) -> Dialogue | Failure:
        return Failure("OutOfMemoryError: 3 GiB asked for")


def test_nothing_but_failures_ends_the_job_with_their_reason(expressions: list[Sample], tmp_path: Path) -> None:
    many = [
        replace(s, expression=replace(s.expression, id=f"{s.expression.id}_{i}")) for i in range(5) for s in expressions
    ]
    cluster, _, _ = cluster_of(Failing(lambda sample: ""))
    with pytest.raises(WorkerError, match=r"50 expressions in a row failed.*3 GiB asked for"):
        infer(cluster, many, tmp_path)
    assert len(read_failures(tmp_path / FAILED_FILE)) == 50


def test_rewards_are_recorded_where_a_recipes_scoring_is_given(
    expressions: list[Sample], truth: dict[tuple[str, str], Sample], tmp_path: Path
) -> None:
    weights = {"veason_format": 1.0, "veason_consistency": 1.0}
    judge = scoring_of(BOXES.environment, BOXES.environment_settings, weights)
    cluster, _, _ = cluster_of(true_box(truth))
    scores = evaluate(cluster, expressions[:3], tmp_path, rewards=judge)
    records = read_results(tmp_path / "results.jsonl")
    assert len(scores.expressions) == len(records) == 3
    assert all(r.rewards is not None and r.rewards["veason_format"] == 2.0 for r in records if r.expression_id != "2")
    assert json.loads((tmp_path / "scores.json").read_text())["missing"] == []
