"""A dialogue's score as soon as it has ended, from the trainer's pool, while other dialogues roll out."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from rewards.pool.desk import find_desk
from rewards.scoring import Scoring
from rollout.errors import DataError, WorkerError
from rollout.types import Episode, Sample
from verl_ext.scoring.rollouts import requests_of

logger = logging.getLogger(__name__)

KEY = "judged"
"""In a rollout's ``extra_fields``."""


async def judged(scoring: Scoring, sample: Sample, episode: Episode) -> dict[str, Any]:
    """The pool's answers to what the dialogue's rewards ask, by name, for `verl_ext.scoring.rollouts.score_rollouts`.

    Empty if one cannot be given: the step then asks for itself, and says what is wrong.
    """
    requests = await asyncio.to_thread(requests_of, scoring, sample, episode, [None] * len(episode.turns))
    if not requests:
        return {}
    try:
        desk = find_desk()
        answers = await asyncio.gather(*(desk.judge.remote(request) for request in requests.values()))
    except (DataError, WorkerError) as error:
        logger.warning("%s is not scored ahead: %s", sample.id, error)
        return {}
    return dict(zip(requests, answers, strict=True))
