"""A dialogue's hidden ``[SEG]`` states while it goes on, out of the replies that vLLM sent them with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.conversation import Conversation
from rollout.episode import seg_of_turns
from rollout.errors import WorkerError
from rollout.types import Episode
from verl_ext.inference.seg_hidden import KEY, Found

DRAWN_STATE = "drawn_state"
"""In a rollout's ``extra_fields``: the hidden ``[SEG]`` state whose masks it was shown, (d,) float32."""
Hidden = NDArray[np.float32]


class TurnStates:
    """Of one dialogue. What it gives is not projected yet: that is done where the newest head is, see `DeskServer`."""

    def __init__(self) -> None:
        self._turns: list[Found | None] = []
        self.drawn: Hidden | None = None
        """(d,) of what was drawn last."""

    def heard(self, extra_fields: dict[str, Any]) -> None:
        """Of the next turn's reply; takes them out of it."""
        self._turns.append(extra_fields.pop(KEY, None))

    async def __call__(self, answer: Episode, conversation: Conversation) -> list[Hidden | None]:
        """Per turn (d,) at the ``[SEG]`` that draws (`seg_of_turns`), None without one.

        Raises:
            WorkerError: vLLM has kept other states than those of the reply's ``[SEG]`` tokens.
        """
        out = []
        turns = zip(answer.turns, seg_of_turns(answer), self._turns, strict=True)
        for n, (turn, place, found) in enumerate(turns):
            out.append(None if place is None else self._state(n, turn.seg_positions, place, found))
        self.drawn = next((state for state in reversed(out) if state is not None), None)
        return out

    def _state(self, turn: int, positions: list[int], place: int, found: Found | None) -> Hidden:
        expected = (len(positions), [positions[0], positions[-1]])
        kept = (0, []) if found is None else (int(found[0]), list(found[1]))
        if found is None or kept != expected:
            raise WorkerError(
                f"turn {turn}: vLLM kept the states of {kept[0]} [SEG] at {kept[1]}, the reply has {expected[0]} from "
                f"{expected[1][0]} to {expected[1][1]}; no mask is drawn from another token's state"
            )
        return np.frombuffer(found[2], dtype=np.float32).reshape(2, -1)[0 if place == 0 else 1].copy()
