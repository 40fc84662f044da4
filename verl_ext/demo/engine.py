"""A policy's workers and pool behind two questions: what of a clip do sentences mean, and what lies under a click.

The first goes the way of ``videoseg eval``, from a data set on disk (`generic`) to its results file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_construction.atomic import write_json
from rollout.errors import DataError, WorkerError
from rollout.types import RLE, Clip
from verl_ext.evaluation.request import Request
from verl_ext.evaluation.targets import Target, stream

if TYPE_CHECKING:
    from eval.inference.cluster import Cluster
    from eval.inference.onlooker import TurnSoFar
    from eval.results.record import ResultRecord

PAUSE_S = 0.4
"""Between two looks at dialogues that go on."""
VIDEOS, ANSWERS, EXPRESSIONS = "videos", "answers", "expressions.json"


@dataclass(frozen=True)
class Answered:
    """One sentence's."""

    sentence: str
    record: ResultRecord | None
    """None: it failed."""
    problem: str = ""


def target_at(folder: Path) -> Target:
    """A folder with one video in ``videos``, as evaluation takes it: a data set of one's own clips."""
    from eval.benchmarks import load_benchmark

    return Target(load_benchmark("generic"), folder, folder / ANSWERS, True)


def video_in(folder: Path) -> Path:
    return next((folder / VIDEOS).iterdir())


Look = Callable[[Sequence[str]], "dict[str, list[TurnSoFar]]"]
"""Turns so far of dialogues, by ``Sample.id``; those that have not begun are left out."""


class Engine:
    """Answers about one clip at a time; :meth:`close` ends it and its cluster.

    Args:
        look: tells of the cluster's dialogues while they go on.
    """

    def __init__(self, cluster: Cluster, look: Look) -> None:
        self.cluster, self.look = cluster, look
        self.stopped: str | None = None
        """Why it answers no more."""
        self._closing = False
        self._one = ThreadPoolExecutor(1, "demo")

    @classmethod
    def start(cls, request: Request) -> Engine:
        """What the recipe of an evaluation says. The request's target is a folder that may be empty.

        Raises:
            RecipeError, DataError, WorkerError: as `verl_ext.evaluation.job.run`.
        """
        from eval.inference.onlooker import WatchedWorker, look_at
        from eval.inference.run import start_cluster
        from rewards.model_files import check_sam2
        from verl_ext.evaluation.job import check_policy
        from verl_ext.evaluation.settings import inference_settings, recipe_of, refuse_ignored

        check_policy(request.policy)
        (target,) = request.targets
        recipe = recipe_of(request, target)
        refuse_ignored(request, recipe)
        settings = inference_settings(recipe)
        if settings.sam2_checkpoint is not None:
            check_sam2(Path(settings.sam2_checkpoint), settings.sam2_preset)
        cluster = start_cluster(request.policy, settings, recipe.device, request.gpus, WatchedWorker)
        return cls(cluster, partial(look_at, cluster))

    def ask(self, folder: Path, sentences: Sequence[str]) -> Job:
        """About the video of ``folder``, whose frames are encoded once however often it is asked about.

        Raises WorkerError if an earlier job ended the engine.
        """
        if self.stopped is not None:
            raise WorkerError(f"{self.stopped}; start the demo again")
        for old in (folder / ANSWERS).glob("*.jsonl"):
            old.unlink()
        texts = {str(n): {"exp": text} for n, text in enumerate(sentences)}
        write_json(folder / EXPRESSIONS, {video_in(folder).stem: texts})
        return Job(self, folder, sentences)

    def click(self, clip: Clip, frame: int, x: float, y: float) -> RLE:
        """SAM 2's own mask of what lies at a pixel of the clip. Raises DataError for a place that it does not have."""
        from rewards.segmenter.types import PointRequest

        try:
            request = PointRequest(clip, frame, (x, y))
        except ValueError as e:
            raise DataError(str(e)) from e
        (answer,) = self.cluster.pool.submit([request])
        return answer.result().rles[0]  # type: ignore[no-any-return]

    def close(self) -> None:
        """A job that is under way is given up first: left alone it would replace the workers that end here."""
        self._closing = True
        self._one.shutdown(cancel_futures=True)
        self.cluster.close()

    def _go_on(self, done: int, total: int, what: str) -> None:
        """Asked by inference every few seconds."""
        if self._closing:
            raise WorkerError("the demo was ended")

    def infer(self, folder: Path) -> None:
        """Every expression of the folder's data set to its results file. Raises as `eval.inference.run.infer`."""
        from eval.inference.run import infer

        target = target_at(folder)
        dataset = target.open()
        keys = [(clip, e.id) for clip in dataset.clips() for e in dataset.expressions(clip)]
        infer(self.cluster, stream(target, dataset, keys), target.out, total=len(keys), progress=self._go_on)


class Job:
    """Sentences about a clip on their way. Iterate it for their turns so far, one list a sentence, until it is over."""

    def __init__(self, engine: Engine, folder: Path, sentences: Sequence[str]) -> None:
        self.folder, self._engine, self._sentences = folder, engine, sentences
        self._names = [f"{video_in(folder).stem}/{n}" for n in range(len(sentences))]
        self._over = threading.Event()
        self._future = engine._one.submit(engine.infer, folder)
        self._future.add_done_callback(self._settle)

    @property
    def over(self) -> threading.Event:
        """Set once nothing of it is under way any more, whether anybody has looked on or not."""
        return self._over

    def __iter__(self) -> Iterator[list[list[TurnSoFar]]]:
        """Whenever they have changed. Raises what inference raised."""
        told = None
        while not self._over.wait(PAUSE_S):
            found = self._engine.look(self._names)
            turns = [found.get(name, []) for name in self._names]
            if turns != told:
                told = turns
                yield turns
        self._future.result()

    def answers(self) -> list[Answered]:
        """Once it is over: in the order of the sentences."""
        from eval.results.failures import FAILED_FILE, read_failures
        from eval.results.results_file import read_results

        results = self.results
        records = {r.expression_id: r for r in read_results(results)} if results.is_file() else {}
        failed = {f["expression_id"]: f["reason"] for f in read_failures(results.with_name(FAILED_FILE))}
        return [Answered(text, records.get(str(n)), failed.get(str(n), "")) for n, text in enumerate(self._sentences)]

    @property
    def results(self) -> Path:
        from eval.results.results_file import RESULTS_FILE

        return self.folder / ANSWERS / RESULTS_FILE

    def _settle(self, future: Any) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            # what it had under way would answer into the next one
            self._engine.stopped = f"the engine stopped ({type(error).__name__}: {error})"
        self._over.set()


def clip_of(folder: Path) -> Clip:
    """The folder's video, once it was asked about. Raises DataError if it cannot be read."""
    return target_at(folder).open().clip(video_in(folder).stem)
