"""Dialogues told while they go on: what each turn was shown, and its reply as far as it is written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from eval.inference.cluster import Cluster
from eval.inference.dialogue import Dialogue
from eval.inference.worker import PolicyWorker
from eval.results.failures import Failure
from rollout.environment import Environment
from rollout.messages import Message
from rollout.types import RLE, Episode, Sample, StopReason
from rollout.verification import MasksWanted

REMEMBERED = 256
"""Dialogues of a worker that can still be told of."""
PATIENCE_S = 30


@dataclass
class TurnSoFar:
    """One turn of a dialogue that goes on."""

    shown: tuple[int, ...]
    """Frames of the user message before it, in order."""
    text: str = ""
    done: bool = False
    """Whether the reply is whole."""


_OPEN: ContextVar[list[TurnSoFar]] = ContextVar("turns of the dialogue of this task")


class Onlooker:
    """An environment that notes what is shown and said in ``turns``."""

    def __init__(self, environment: Environment, turns: list[TurnSoFar]) -> None:
        self._environment, self._turns = environment, turns

    def begin(self) -> list[Message] | StopReason:
        return self._noted(self._environment.begin())

    def step(self, reply: str) -> list[Message] | StopReason | MasksWanted:
        self._turns[-1].text, self._turns[-1].done = reply, True
        said = self._environment.step(reply)
        return said if isinstance(said, MasksWanted) else self._noted(said)

    def see(self, masks: Mapping[int, RLE] | None) -> list[Message] | StopReason:
        """The masks that an environment asked for (`MasksWanted`)."""
        return self._noted(self._environment.see(masks))  # type: ignore[attr-defined]

    def episode(self, stop: StopReason) -> Episode:
        return self._environment.episode(stop)

    def _noted(self, outcome: list[Message] | StopReason) -> list[Message] | StopReason:
        if not isinstance(outcome, StopReason):
            self._turns.append(TurnSoFar(tuple(frame for message in outcome for frame in message.frames)))
        return outcome


class WatchedWorker(PolicyWorker):
    """A policy worker that also tells what its newest dialogues have come to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._turns: OrderedDict[str, list[TurnSoFar]] = OrderedDict()

    async def run(
        self, sample: dict[str, Any], environment_settings: Mapping[str, Any] | None = None
    ) -> Dialogue | Failure:
        turns: list[TurnSoFar] = []
        _OPEN.set(turns)
        name = Sample.from_dict(sample).id
        self._turns[name] = turns
        self._turns.move_to_end(name)
        while len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)
        return await super().run(sample, environment_settings)

    async def so_far(self, samples: Sequence[str]) -> dict[str, list[TurnSoFar]]:
        """By ``Sample.id``; those that are not here are left out."""
        return {name: self._turns[name] for name in samples if name in self._turns}

    def _watched(self, environment: Environment) -> Environment:
        return Onlooker(environment, _OPEN.get())

    def _hear(self, token_ids: Sequence[int]) -> None:
        turn = _OPEN.get()[-1]
        turn.text = self.processor.tokenizer.decode(list(token_ids), skip_special_tokens=False)


def look_at(cluster: Cluster, samples: Sequence[str]) -> dict[str, list[TurnSoFar]]:
    """What the cluster's `WatchedWorker`s tell of dialogues, by ``Sample.id``."""
    import ray

    found: dict[str, list[TurnSoFar]] = {}
    for worker in cluster.workers:
        with suppress(ray.exceptions.RayError):  # one that died is replaced, and its dialogues begin again
            found |= ray.get(worker.so_far.remote(list(samples)), timeout=PATIENCE_S)
    return found
