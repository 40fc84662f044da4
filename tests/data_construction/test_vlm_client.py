"""The client against a server that misbehaves: what is asked again, what is given up, what stops the job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_construction.vlm import (
    BudgetReachedError,
    Client,
    ClientSettings,
    EndpointError,
    GaveUpError,
    Prices,
    Reply,
    StoppedError,
)
from rollout.errors import RecipeError
from tests.data_construction.fault_server import RETRY_AFTER, FaultServer, running
from tests.data_construction.vlm_asking import one, prompt, script, with_client


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("limit", "rate_limited"),
        ("500", "http_500"),
        ("503", "http_503"),
        ("drop", "connection"),
        ("half", "connection"),
        ("garbled", "invalid_json"),
        ("slow", "timeout"),
        ("prose", "no_json"),
        ("empty", "no_json"),
        ("wrong", "missing_field"),
        ("cut", "truncated"),
        ("inside429", "rate_limited"),
        ("inside502", "http_502"),
    ],
)
def test_a_passing_fault_is_asked_again_and_counted(fault: str, reason: str) -> None:
    with running(FaultServer(script(fault))) as server:
        reply, client = with_client(server, one, timeout=1.5 if fault == "slow" else 30.0)
    assert reply.value.startswith("The summary") and not reply.cached
    assert dict(client.ledger.retried) == {reason: 1}
    assert client.ledger.sent == 2 and client.ledger.answered == 1


@pytest.mark.parametrize(
    ("fault", "reason", "sent"),
    [
        ("500", "http_500", 4),
        ("drop", "connection", 4),
        ("prose", "no_json", 3),
        ("cut", "truncated", 3),
        ("refuse", "refused", 1),
        ("422", "http_422", 1),
        ("inside400", "http_400", 1),
    ],
)
def test_a_lasting_fault_is_given_up_with_its_reason(fault: str, reason: str, sent: int) -> None:
    with running(FaultServer(lambda _: fault)) as server, pytest.raises(GaveUpError) as error:
        with_client(server, one, attempts=4, prices=Prices(1.0, 1.0))
    assert error.value.reason == reason
    assert sum(server.bodies.values()) == sent
    assert (error.value.wasted.prompt_tokens > 0) == (fault in ("prose", "cut"))
    assert error.value.server_down == (fault in ("500", "drop"))


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("401", "key"),
        ("402", "credit"),
        ("403", "key"),
        ("404", "model"),
        ("quota", "credit"),
        ("inside401", "key"),
        ("inside402", "credit"),
    ],
)
def test_what_no_request_can_pass_stops_the_job_at_once(fault: str, what: str) -> None:
    with running(FaultServer(lambda _: fault)) as server, pytest.raises(EndpointError, match=what):
        with_client(server, one)
    assert sum(server.bodies.values()) == 1


def test_retry_after_holds_back_every_request() -> None:
    async def many(client: Client) -> list[Reply[str]]:
        first = asyncio.create_task(client.ask(prompt("summary 0")))
        while not client.ledger.retried:  # Until the first one was told to wait.
            await asyncio.sleep(0.005)
        return [await first, *await asyncio.gather(*(client.ask(prompt(f"summary {n}")) for n in (1, 2, 3)))]

    server = FaultServer()
    server.faults = lambda n: "limit" if not server.times else None
    with running(server):
        replies, _ = with_client(server, many)
    assert len(replies) == 4 and len(server.times) == 5
    assert min(server.times[1:]) - server.times[0] >= RETRY_AFTER - 0.02


def test_no_more_in_flight_than_allowed() -> None:
    async def many(client: Client) -> int:
        return len(await asyncio.gather(*(client.ask(prompt(f"summary {n}")) for n in range(20))))

    with running(FaultServer(delay=0.02)) as server:
        assert with_client(server, many, concurrency=5)[0] == 20
    assert server.most == 5


def test_a_reply_is_paid_once_and_another_run_finds_it(tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        first, _ = with_client(server, one, tmp_path, prices=Prices(2.0, 10.0))
        again, client = with_client(server, one, tmp_path, prices=Prices(2.0, 10.0))
        salted, _ = with_client(server, lambda c: c.ask(prompt(salt="attempt 2")), tmp_path)
        warmer, _ = with_client(server, one, tmp_path, temperature=1.0)
    assert again.cached and again.value == first.value and again.usage == first.usage
    assert client.ledger.usage.cost == 0 and client.ledger.cached == 1
    assert not salted.cached and not warmer.cached
    assert sum(server.bodies.values()) == 3
    expected = (first.usage.prompt_tokens * 2 + first.usage.completion_tokens * 10) / 1e6
    assert first.usage.cost == pytest.approx(expected) and first.usage.cost > 0


def test_a_damaged_cache_file_and_a_bad_reply_are_not_used(tmp_path: Path) -> None:
    with running(FaultServer(script("prose"))) as server:
        with_client(server, one, tmp_path)
        (file,) = tmp_path.rglob("*.json")  # The rejected reply was not kept.
        file.write_text(file.read_text()[:10])
        reply, _ = with_client(server, one, tmp_path)
        assert not reply.cached and with_client(server, one, tmp_path)[0].cached


def test_the_spend_cap_is_never_crossed() -> None:
    async def many(client: Client) -> tuple[int, int]:
        asked = (client.ask(prompt(f"summary {n}", prompt_tokens=150)) for n in range(40))
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert not [d for d in done if not isinstance(d, Reply | BudgetReachedError)]
        return sum(isinstance(d, Reply) for d in done), sum(isinstance(d, BudgetReachedError) for d in done)

    with running(FaultServer(delay=0.01)) as server:
        settings = {"prices": Prices(1.0, 5.0), "max_tokens": 100, "concurrency": 4, "max_cost": 0.01}
        (replies, stopped), client = with_client(server, many, **settings)
    assert replies and stopped and replies + stopped == 40
    assert 0.005 < client.ledger.spent <= 0.01
    assert client.ledger.reserved == pytest.approx(0.0)


def test_what_is_set_aside_for_others_is_waited_for() -> None:
    """Each may cost 1 and costs 0.04: one at a time fits under the cap, and all of them in the end."""

    async def many(client: Client) -> int:
        return len(await asyncio.gather(*(client.ask(prompt(f"summary {n}")) for n in range(10))))

    with running(FaultServer(delay=0.01)) as server:
        settings = {"prices": Prices(0.0, 1000.0), "max_tokens": 1000, "concurrency": 8, "max_cost": 1.5}
        replies, client = with_client(server, many, **settings)
    assert replies == 10 and client.ledger.spent == pytest.approx(0.4)


def test_stopping_lets_requests_in_flight_finish_and_sends_no_more() -> None:
    async def stop_soon(client: Client) -> Sequence[Any]:
        asked = [asyncio.create_task(client.ask(prompt(f"summary {n}"))) for n in range(6)]
        while server.now < 2:
            await asyncio.sleep(0.005)
        client.stop()
        return await asyncio.gather(*asked, return_exceptions=True)

    with running(FaultServer(delay=0.3)) as server:
        ends, _ = with_client(server, stop_soon, concurrency=2)
    assert [type(e) for e in ends] == [Reply, Reply, *[StoppedError] * 4]


def test_stopping_ends_a_wait_for_the_server() -> None:
    async def stop_soon(client: Client) -> float:
        loop = asyncio.get_running_loop()
        asked, begun = asyncio.create_task(client.ask(prompt())), loop.time()
        while not client.ledger.retried:
            await asyncio.sleep(0.005)
        client.stop()
        with pytest.raises(StoppedError):
            await asked
        return loop.time() - begun

    with running(FaultServer(lambda _: "500")) as server:
        assert with_client(server, stop_soon, backoff=60.0)[0] < 20.0


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"concurrency": 0}, "concurrency = 0"), ({"structured": "yaml"}, "yaml"), ({"max_cost": 1.0}, "prices")],
)
def test_wrong_settings_are_named(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        ClientSettings("m", **settings)
