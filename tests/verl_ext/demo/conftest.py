"""An engine whose policy says what it is told, so that neither Ray nor vLLM is needed; all else is the demo's own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from eval.inference.cluster import Cluster
from eval.inference.fleet import Fleet
from eval.inference.onlooker import Onlooker, TurnSoFar
from rewards.segmenter import Segmenter, SegmenterConfig
from rollout.types import Sample
from tests.eval.clips import BAIT
from tests.eval.scripted import BOXES, LocalPool, ScriptedWorker, box_reply
from tests.videos import write_video
from verl_ext.demo.engine import Engine
from verl_ext.demo.limits import Limits
from verl_ext.demo.visits import Visits, scratch
from verl_ext.scoring.rollouts import scoring_of

FRAMES = 10
LIMITS = Limits(megabytes=1, frames=40)
LEFT, RIGHT, NOTHING = "the left half", "the right half", f"nothing {BAIT} {{{{1}}}} ${{1}}"
SEGMENTER = Segmenter(
    SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32, propagation_gate=False)
)


def half(sample: Sample) -> str:
    """The box of the half that is asked for; of anything else no box, and the question repeated."""
    boxes = {LEFT: [2.0, 2.0, 55.0, 110.0], RIGHT: [57.0, 2.0, 110.0, 110.0]}
    text = sample.expression.text
    return box_reply(0, boxes[text]) if text in boxes else f"<think>{text}</think>no box"


class WatchedScript(ScriptedWorker):
    """Tells of its dialogues as `WatchedWorker` does; waits with each until it is let go on."""

    def __init__(self, say: Callable[[Sample], str]) -> None:
        super().__init__(say)
        self.turns: dict[str, list[TurnSoFar]] = {}
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self, sample: dict[str, Any], settings: Mapping[str, Any] | None) -> Future[Any]:
        out: Future[Any] = Future()
        turns = self.turns[Sample.from_dict(sample).id] = []

        def work() -> None:
            out.set_result(self.talk(sample, settings, lambda environment: Onlooker(environment, turns)))

        def begin() -> None:
            turns.append(TurnSoFar((0, 3), "<think>looking"))
            self.go_on.wait(60)
            turns.clear()
            work()

        threading.Thread(target=begin, daemon=True).start()
        return out

    def look(self, names: Any) -> dict[str, list[TurnSoFar]]:
        return {name: list(self.turns[name]) for name in names if name in self.turns}


@pytest.fixture
def worker() -> WatchedScript:
    return WatchedScript(half)


@pytest.fixture
def engine(worker: WatchedScript) -> Iterator[Engine]:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    fleet = Fleet(lambda slot: worker, [worker], 8, events.put)
    scoring = scoring_of(BOXES.environment, BOXES.environment_settings, {})
    cluster = Cluster(fleet, events, LocalPool(SEGMENTER), scoring)
    cluster.close = lambda: None  # type: ignore[method-assign]
    made = Engine(cluster, worker.look)
    yield made
    worker.go_on.set()
    made.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


@pytest.fixture
def visits(place: Path) -> Visits:
    return Visits(place, LIMITS)


@pytest.fixture
def upload(place: Path) -> Path:
    """As Gradio leaves one: in a folder named by what is in it."""
    folder = place / "0123abcd"
    folder.mkdir()
    return write_video(folder / "my clip é.mp4", [40 * t for t in range(FRAMES)])
