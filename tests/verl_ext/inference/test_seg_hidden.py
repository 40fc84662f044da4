"""States of ``[SEG]`` in mid-dialogue, without vLLM: a runner with its interface, steps written out.

`tests/e2e/test_seg_hidden.py` runs the same hook in a real engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rollout.errors import WorkerError
from rollout.types import Episode, StopReason, Turn, Verdict
from verl_ext.inference.seg_hidden import KEY, SLOTS_A_SEQUENCE, Found, SegHidden, asked_in, asking, with_seg_hidden
from verl_ext.inference.turn_states import TurnStates

SEG, WIDTH = 7, 4


class Runner:
    """What of vLLM's runner is read. A token's state says whose it is, where and in which step it was computed."""

    speculative_config: Any = None
    max_num_reqs = 2

    def __init__(self) -> None:
        self.execute_model_state: Any = None
        self.input_batch: Any = None
        self.input_ids: Any = None
        self.steps = 0

    def execute_model(self, scheduled: Any) -> None:
        self.steps += 1
        self.execute_model_state = None
        if not scheduled.num_scheduled_tokens:
            return
        ids, hidden = [], []
        for name, (begin, tokens) in scheduled.parts.items():
            ids += tokens
            hidden += [[float(ord(name[0])), float(begin + n), float(self.steps), 0.0] for n in range(len(tokens))]
        padding = torch.full((3, WIDTH), -1.0)  # graphs run on more rows than there are tokens
        self.execute_model_state = SimpleNamespace(hidden_states=torch.cat([torch.tensor(hidden), padding]))
        self.input_ids = SimpleNamespace(gpu=torch.tensor([*ids, SEG, SEG, SEG], dtype=torch.int32))
        begins = np.array([begin for begin, _ in scheduled.parts.values()])
        self.input_batch = SimpleNamespace(req_ids=list(scheduled.parts), num_computed_tokens_cpu=begins)


def step(
    runner: Any,
    parts: Mapping[str, tuple[int, Sequence[int]]],
    new: Mapping[str, tuple[int, str | None]] | None = None,
    finished: Sequence[str] = (),
) -> None:
    """parts: request -> (first place, tokens), in the batch's order; new: request -> (prompt length, key)."""
    begun = [
        SimpleNamespace(
            req_id=name,
            prompt_token_ids=[0] * length,
            sampling_params=SimpleNamespace(extra_args=None if key is None else asking(key, SEG)["extra_args"]),
        )
        for name, (length, key) in (new or {}).items()
    ]
    counts = {name: len(tokens) for name, (_, tokens) in parts.items()}
    runner.execute_model(
        SimpleNamespace(
            parts=parts, num_scheduled_tokens=counts, scheduled_new_reqs=begun, finished_req_ids=set(finished)
        )
    )


def states(found: Found | None) -> list[list[float]]:
    assert found is not None
    out: list[list[float]] = np.frombuffer(found[2], dtype=np.float32).reshape(2, WIDTH)[:, :3].tolist()
    return out


def test_first_and_newest_of_the_sampled_tokens_alone_in_whatever_batch() -> None:
    runner = Runner()
    kept = SegHidden(runner)
    step(runner, {"a": (0, [1, SEG]), "b": (0, [1, 2, 3])}, {"a": (4, "A"), "b": (3, "B")})  # a prompt in parts
    step(runner, {"b": (3, [SEG]), "a": (2, [SEG, 2])})  # the batch's order changes; a's is still its prompt
    step(runner, {"a": (4, [5]), "b": (4, [SEG]), "c": (0, [SEG, SEG])}, {"c": (1, None)})
    step(runner, {"b": (5, [SEG]), "c": (2, [SEG]), "a": (5, [SEG])})
    assert states(kept.take("A")) == [[97.0, 5.0, 4.0]] * 2, "one is the first and the newest"
    found = kept.take("B")
    assert found is not None and found[:2] == (3, [3, 5])
    assert states(found) == [[98.0, 3.0, 2.0], [98.0, 5.0, 4.0]]
    assert kept.take("B") is None and kept.take("c") is None and len(kept) == 0


def test_a_preempted_request_is_not_counted_twice_and_a_slot_is_used_again() -> None:
    runner = Runner()
    kept = SegHidden(runner)
    step(runner, {"a": (0, [1, 2])}, {"a": (2, "A")})
    step(runner, {"a": (2, [SEG])})
    step(runner, {})  # nothing runs: preempted
    step(runner, {"a": (0, [1, 2, SEG, 4, SEG])})  # computed again, and on
    step(runner, {"a": (5, [SEG])})
    found = kept.take("A")
    assert found is not None and found[:2] == (3, [2, 5]) and states(found)[0] == [97.0, 2.0, 2.0]
    step(runner, {"d": (0, [1])}, {"d": (1, "D")}, finished=["a"])
    found = kept.take("D")
    assert found is not None and found[0] == 0, "nothing of the request before it"


def test_memory_is_bounded_and_nothing_stays_of_what_is_dropped() -> None:
    runner = Runner()
    kept, capacity = SegHidden(runner), SLOTS_A_SEQUENCE * Runner.max_num_reqs
    step(runner, {"z": (0, [1])}, {"z": (1, "running")})
    for n in range(capacity):  # replies that nobody fetches
        before = [f"r{n - 1}"] if n else []
        step(runner, {f"r{n}": (0, [1]), "z": (n + 1, [SEG])}, {f"r{n}": (1, f"left{n}")}, finished=before)
    assert len(kept) == capacity
    assert kept.take("left0") is None and kept.take("left1") is not None
    running = kept.take("running")
    assert running is not None and running[0] == capacity, "the oldest that had ended made room, not the oldest"
    kept.drop("left2")
    kept.drop("left2")
    assert kept.take("left2") is None and len(kept) == capacity - 3
    kept.clear()
    assert len(kept) == 0 and kept.take("left3") is None


@pytest.mark.parametrize("what", ["decodes speculatively", "lacks speculative_config"])
def test_a_runner_that_it_was_not_written_for_is_refused_by_name(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner()
    SegHidden(runner)
    if what.startswith("lacks"):
        monkeypatch.delattr(Runner, "speculative_config")
    else:
        runner.speculative_config = object()
    step(runner, {"a": (0, [1])}, {"a": (1, None)})  # nobody asked
    with pytest.raises(RuntimeError, match=rf"vLLM's Runner {what}, no \[SEG\] state can be kept"):
        step(runner, {"b": (0, [1])}, {"b": (1, "B")})


class Engine:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    async def collective_rpc(self, method: str, args: tuple[str]) -> Any:
        self.asked.append((method, *args))
        return self.answers


def reply(*ids: int) -> Any:
    async def made() -> Any:
        return SimpleNamespace(token_ids=list(ids), extra_fields={})

    return made()


def test_the_server_hands_states_back_with_the_reply_and_leaves_none_behind() -> None:
    asked = asked_in(asking("k", SEG))
    assert asked is not None and asked_in({"temperature": 1.0}) is None and asked_in({"extra_args": {}}) is None

    async def go() -> None:
        engine = Engine(None, (1, [3, 3], b"x"))  # a worker without the last layer, and one with it
        out = await with_seg_hidden(reply(1, SEG, 2), engine, asked)
        assert out.extra_fields == {KEY: (1, [3, 3], b"x")} and engine.asked == [("take_seg_hidden", "k")]
        engine = Engine(None)
        out = await with_seg_hidden(reply(1, 2), engine, asked)
        await asyncio.sleep(0)
        assert not out.extra_fields and engine.asked == [("drop_seg_hidden", "k")]
        engine = Engine(None)

        async def fails() -> Any:
            raise ValueError("aborted")

        with pytest.raises(ValueError, match="aborted"):
            await with_seg_hidden(fails(), engine, asked)
        await asyncio.sleep(0)
        assert engine.asked == [("drop_seg_hidden", "k")]

    asyncio.run(go())


def found_of(count: int, first: int, newest: int) -> Found:
    return count, [first, newest], np.arange(2 * WIDTH, dtype=np.float32).tobytes()


def dialogue(*positions: Sequence[int], verdict: Verdict | None = None) -> Episode:
    turns = [Turn("", None, None, keyframe=0, seg_positions=list(p)) for p in positions]
    return Episode(turns, StopReason.ANSWERED, (), 9, verdict)


def test_turns_have_the_state_that_draws_and_no_other_tokens() -> None:
    heard = TurnStates()
    for found in (found_of(2, 4, 6), None, found_of(3, 11, 19)):
        fields = {} if found is None else {KEY: found}
        heard.heard(fields)
        assert not fields
    first, none, newest = asyncio.run(heard(dialogue((4, 6), (), (11, 13, 19)), None))  # type: ignore[arg-type]
    assert first is not None and first.tolist() == [0, 1, 2, 3] and none is None
    assert newest is not None and newest.tolist() == [4, 5, 6, 7] and heard.drawn is newest
    for positions in ((4, 6), (4, 7)), ((4, 6, 8), (4, 6)):
        wrong = TurnStates()
        wrong.heard({KEY: found_of(len(positions[1]), positions[1][0], positions[1][-1])})
        with pytest.raises(WorkerError, match=r"turn 0: vLLM kept the states of 2 \[SEG\] at \[4, \d\], the reply has"):
            asyncio.run(wrong(dialogue(positions[0]), None))  # type: ignore[arg-type]
    lost = TurnStates()
    lost.heard({KEY: None})
    with pytest.raises(WorkerError, match=r"kept the states of 0 \[SEG\]"):
        asyncio.run(lost(dialogue((4,)), None))  # type: ignore[arg-type]
