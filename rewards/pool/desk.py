"""Masks in the middle of a dialogue: other processes ask the pool through a named Ray actor.

The pool belongs to one process, which feeds its workers and replaces those that die. Dialogues run in others. A `Desk`
stands between them: dialogues `ask` and wait, a thread of the pool's process takes what has come in, submits all of it
together, and hands the answers back. `ask` refuses ground truth, for what comes back is shown to the policy; `judge` is
for scores, which are not. States of ``[SEG]`` may come as the language model has them: whoever owns the pool has the
newest projection, too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from rewards.segmenter.types import BoxRequest, PropagateRequest, Request, State
from rollout.errors import WorkerError

DESK = "videoseg_mask_desk"
"""Its name among the actors of a Ray job."""


class Desk:
    """Made a Ray actor by `open_desk`; async, so that any number of dialogues may wait."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Any]] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._came = asyncio.Event()
        self._count = 0
        self._closed = False

    async def ask(self, request: PropagateRequest | BoxRequest) -> Any:
        """The pool's answer. Raises WorkerError once the desk is closed, DataError for a clip that cannot be read."""
        if request.masklets is not None or request.judged:
            raise ValueError(f"clip {request.clip.name}: masks for a dialogue are drawn without ground truth")
        return await self.judge(request)

    async def judge(self, request: Request) -> Any:
        """The same for a dialogue that has ended, of which the answer is a score."""
        if self._closed:
            raise WorkerError(f"clip {request.clip.name}: the pool was closed before its masks were drawn")
        self._count += 1
        key = self._count
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, request))
        self._came.set()
        return await answer

    async def take(self) -> list[tuple[int, Any]]:
        """Wait for requests; nothing once closed."""
        await self._came.wait()
        taken, self._waiting = self._waiting, []
        if not self._closed:
            self._came.clear()
        return [] if self._closed else taken

    async def asked(self) -> list[int]:
        """Who waits for an answer."""
        return list(self._answers)

    async def answer(self, key: int, outcome: Any) -> None:
        """``outcome``: the pool's answer, or what went wrong."""
        found = self._answers.pop(key, None)
        if found is None or found.done():
            return  # who asked is gone
        if isinstance(outcome, Exception):
            found.set_exception(outcome)
        else:
            found.set_result(outcome)

    async def close(self) -> None:
        """Whoever waits hears that there will be no answer."""
        self._closed = True
        for key in list(self._answers):
            await self.answer(key, WorkerError("the pool was closed before these masks were drawn"))
        self._came.set()


class Submits(Protocol):
    """What of `rewards.pool.pool.SegmenterPool` is used."""

    def submit(self, requests: Any, /) -> list[Future[Any]]: ...


class DeskServer:
    """The pool's side: owns the actor, and a thread that serves it. :meth:`close` ends both."""

    def __init__(
        self, pool: Callable[[], Submits], name: str | None = DESK, project: Callable[[Any], State] | None = None
    ) -> None:
        """
        Args:
            pool: asked for when the first dialogue waits: the desk may be there before it.
            project: makes the state that the segmenter takes of the (d,) hidden one that a dialogue sends. None: they
                send states as the segmenter takes them.
        """
        import ray

        options = {"num_cpus": 0, "max_concurrency": 4096} | ({} if name is None else {"name": name})
        self.desk: Any = ray.remote(Desk).options(**options).remote()
        self._pool = pool
        self._project = project
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        import ray

        while True:
            try:
                taken = ray.get(self.desk.take.remote())
            except ray.exceptions.RayError:
                return  # the desk, or Ray, is gone: so are those who asked
            if not taken:
                return
            try:
                futures = self._pool().submit([self._ready(request) for _, request in taken])
            except Exception as error:
                for key, _ in taken:
                    self.desk.answer.remote(key, error)
                continue
            for (key, _), future in zip(taken, futures, strict=True):
                future.add_done_callback(partial(self._hand_back, key))

    def _ready(self, request: PropagateRequest | BoxRequest) -> PropagateRequest | BoxRequest:
        if self._project is None or request.state is None:
            return request
        return replace(request, state=self._project(request.state))

    def _hand_back(self, key: int, future: Future[Any]) -> None:
        error = future.exception()
        self.desk.answer.remote(key, future.result() if error is None else error)

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            ray.get(self.desk.close.remote())
            self._thread.join(timeout=10)
            ray.kill(self.desk)


def find_desk(name: str = DESK) -> Any:
    """The desk of this Ray job. Raises WorkerError if there is none."""
    import ray

    try:
        return ray.get_actor(name)
    except ValueError as error:
        raise WorkerError(
            "this environment shows the policy its own masks, but no segmenter pool draws them here; name SAM 2 "
            "weights (pool.checkpoint), or take an environment without a verification turn"
        ) from error
