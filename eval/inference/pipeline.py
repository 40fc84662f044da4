"""Inference as a stream: samples in one by one, dialogues over the fleet, masks from the pool, results on disk.

A bounded number of expressions is under way; each is written the moment its masks are there. Expressions of one clip
that have finished talking go to the pool together, which encodes the clip once and propagates them in one batch.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from eval.inference.dialogue import Dialogue
from eval.inference.fleet import Event, Fleet, Job
from eval.inference.recording import record_of
from eval.results.failures import Failure, FailuresFile
from eval.results.record import check_name
from eval.results.results_file import ResultsFile
from rollout.errors import DataError
from rollout.types import Sample

if TYPE_CHECKING:
    from rewards.scoring import Scoring

MASKS, DECODED, PROPAGATED, FIRST = "masks", "decoded", "propagated", "first"
"""Why the pool is asked about a dialogue: for its result, and for three kinds of rewards."""
Progress = Callable[[int, int, str], None]
TOGETHER = 32
"""Finished dialogues of a clip that do not wait for the clip's others any longer."""
TICK_SECONDS = 5.0


@dataclass(frozen=True)
class Broken:
    """An expression whose annotation or clip is not what the data set promises."""

    clip: str
    expression_id: str
    error: DataError


@dataclass(eq=False)
class _Masks:
    """Requests of one expression that are with the pool."""

    sample: Sample
    dialogue: Dialogue
    answers: dict[str, Future[Any]]
    """By purpose."""
    waiting: int


class Pipeline:
    """One stream of samples to one results file.

    Args:
        pool: has ``submit(requests) -> futures``, see `rewards.pool.SegmenterPool`.
        scoring: says which masks to ask the pool for.
        rewards: a recipe's scoring, whose rewards are to be recorded as well; needs the samples' ground truth.
        environment_settings: of these dialogues, where they differ from those the workers started with.
        limit: expressions under way, at most; by default four times what the workers hold.
    """

    def __init__(
        self,
        fleet: Fleet,
        events: queue.SimpleQueue[Any],
        pool: Any,
        scoring: Scoring,
        results: ResultsFile,
        failures: FailuresFile,
        *,
        rewards: Scoring | None = None,
        environment_settings: Mapping[str, Any] | None = None,
        limit: int | None = None,
        progress: Progress | None = None,
        total: int = 0,
    ) -> None:
        self._fleet, self._events, self._pool = fleet, events, pool
        self._scoring, self._rewards, self._settings = scoring, rewards, environment_settings
        self._results, self._failures = results, failures
        self._limit = limit or 4 * fleet.capacity * len(fleet.handles)
        self._progress, self._total = progress, total
        self._talking: dict[str, int] = {}
        self._heard: dict[str, list[tuple[Sample, Dialogue]]] = {}
        self._truths: dict[tuple[str, str], Sample] = {}
        self._under_way = 0
        self._done = 0
        self._watched = time.monotonic()

    def run(self, samples: Iterable[Sample | Broken]) -> None:
        """Until every sample that the results lack has a result or a failure.

        Raises:
            WorkerError: a worker does not start any more, or nothing but failures comes back.
        """
        source = iter(samples)
        more = True
        while more or self._under_way:
            more = more and self._admit(source)
            if self._under_way:
                self._take_event()
            self._watch()
            self._report()

    def _admit(self, source: Iterator[Sample | Broken]) -> bool:
        """Read samples while they are of use now; False once there are no more."""
        while self._under_way < self._limit and self._fleet.room():
            found = next(source, None)
            if found is None:
                return False
            key = (found.clip, found.expression_id) if isinstance(found, Broken) else _key(found)
            if key in self._results:
                self._done += 1
            elif (error := found.error if isinstance(found, Broken) else _name_error(*key)) is not None:
                self._fail(*key, Failure(str(error), "data"))
            else:
                assert not isinstance(found, Broken)
                self._start(found)
        return True

    def _start(self, sample: Sample) -> None:
        blind = replace(sample, masklets=None)  # the policy's side never sees ground truth
        if self._rewards is not None:
            self._truths[_key(sample)] = sample
        self._talking[sample.clip.name] = self._talking.get(sample.clip.name, 0) + 1
        self._under_way += 1
        self._fleet.submit(Job(blind, self._settings))

    def _take_event(self) -> None:
        try:
            event = self._events.get(timeout=TICK_SECONDS)
        except queue.Empty:
            return
        if isinstance(event, _Masks):
            event.waiting -= 1
            if not event.waiting:
                self._finish(event)
            return
        assert isinstance(event, Event)
        for job, outcome in self._fleet.handle(event):
            self._hear(job.sample, outcome)

    def _watch(self) -> None:
        """Look for hung workers by the clock: one may hang for hours while the others' events keep coming."""
        if time.monotonic() - self._watched >= TICK_SECONDS:
            self._watched = time.monotonic()
            self._fleet.kill_stalled()

    def _hear(self, sample: Sample, outcome: Dialogue | Failure) -> None:
        """A dialogue is over; ask for its clip's masks once none of the clip's others is still talking."""
        clip = sample.clip.name
        self._talking[clip] -= 1
        heard = self._heard.setdefault(clip, [])
        if isinstance(outcome, Failure):
            self._under_way -= 1
            self._fail(*_key(sample), outcome)
        else:
            heard.append((sample, outcome))
        if not self._talking[clip] or len(heard) >= TOGETHER:
            self._ask(self._heard.pop(clip))
        if not self._talking[clip]:
            del self._talking[clip]

    def _ask(self, heard: list[tuple[Sample, Dialogue]]) -> None:
        entries = [(sample, dialogue, self._requests(sample, dialogue)) for sample, dialogue in heard]
        answers = iter(self._pool.submit([r for _, _, asked in entries for r in asked.values()]) if entries else ())
        for sample, dialogue, asked in entries:
            masks = _Masks(sample, dialogue, {purpose: next(answers) for purpose in asked}, len(asked))
            for answer in masks.answers.values():
                answer.add_done_callback(partial(self._tell, masks))

    def _requests(self, sample: Sample, dialogue: Dialogue) -> dict[str, Any]:
        """By purpose, what the pool is asked about a dialogue: its masks, and what its rewards need."""
        given = (dialogue.episode, dialogue.states)
        asked: dict[str, Any] = {MASKS: self._scoring.mask_request(sample, *given)}
        if self._rewards is not None:
            true = self._truths[_key(sample)]
            asked[DECODED] = self._rewards.reward_request(true, *given)
            asked[PROPAGATED] = self._rewards.propagation_request(true, *given)
            asked[FIRST] = self._rewards.first_request(true, *given)
        return {purpose: request for purpose, request in asked.items() if request is not None}

    def _tell(self, masks: _Masks, _: Future[Any]) -> None:
        """From the pool's thread."""
        self._events.put(masks)

    def _finish(self, masks: _Masks) -> None:
        self._under_way -= 1
        sample = masks.sample
        truth = self._truths.pop(_key(sample), sample)
        error = next((e for a in masks.answers.values() if (e := a.exception()) is not None), None)
        if error is not None:
            self._fail(*_key(sample), Failure(str(error), "data" if isinstance(error, DataError) else "masks"))
            return
        rewards = None
        if self._rewards is not None:
            purposes = (DECODED, PROPAGATED, FIRST)
            judged = [masks.answers[p].result() if p in masks.answers else None for p in purposes]
            rewards = self._rewards.rewards(truth, masks.dialogue.episode, *judged)
        drawn = masks.answers[MASKS].result()
        by = drawn.drawn_by.value if self._scoring.combines else None
        self._results.append(record_of(sample, masks.dialogue, drawn.rles, rewards, drawn.objects, by))
        self._failures.succeeded(_key(sample))
        self._done += 1

    def _fail(self, clip: str, expression_id: str, failure: Failure) -> None:
        self._done += 1
        self._failures.append(clip, expression_id, failure)

    def _report(self) -> None:
        if self._progress is not None:
            failed = f", {self._failures.count} failed" if self._failures.count else ""
            self._progress(self._done, max(self._total, self._done + self._under_way), f"dialogues and masks{failed}")


def _name_error(clip: str, expression_id: str) -> DataError | None:
    """Why results cannot have these names. It costs this expression alone."""
    try:
        check_name(clip, "clip", nested=True)
        check_name(expression_id, f"expression id of clip {clip!r}", nested=False)
    except DataError as error:
        return error
    return None


def _key(sample: Sample) -> tuple[str, str]:
    return sample.clip.name, sample.expression.id
