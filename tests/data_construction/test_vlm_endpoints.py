"""What endpoints differ in: the wording of a request, whom they refuse, and the key, which nobody else may see."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_construction.vlm import (
    Client,
    ClientSettings,
    EndpointError,
    GaveUpError,
    Reply,
)
from rollout.errors import RecipeError
from tests.data_construction.fault_server import FaultServer, running
from tests.data_construction.vlm_asking import one, prompt, script, with_client

SECRET = "sk-very-secret-0123456789"


def test_a_refusal_after_a_success_is_about_that_request_alone() -> None:
    async def three(client: Client) -> list[Any]:
        asked = [await one(client)]
        for n in range(2):
            with pytest.raises(GaveUpError) as error:
                await client.ask(prompt(f"summary of something that the gateway does not like, {n}"))
            asked.append(error.value.reason)
        return asked

    with running(FaultServer()) as server:
        server.faults = lambda _: "403" if len(server.bodies) > 0 else None
        (_, *reasons), _ = with_client(server, three)
    assert reasons == ["http_403"] * 2


@pytest.mark.parametrize(("first", "ends"), [("422", EndpointError), (None, GaveUpError)])
def test_refusals_all_alike_end_the_job_unless_something_was_answered(first: str | None, ends: type[Exception]) -> None:
    async def many(client: Client) -> Sequence[Any]:
        return [
            (await asyncio.gather(client.ask(prompt(f"summary {n}")), return_exceptions=True))[0] for n in range(22)
        ]

    with running(FaultServer()) as server:
        server.faults = lambda _: "422" if len(server.bodies) > 0 else first
        answers, _ = with_client(server, many)
    assert isinstance(answers[-1], ends) and isinstance(answers[18], GaveUpError)
    assert "refused alike" in str(answers[19]) or first is None


def test_an_endpoint_of_another_dialect_is_asked_in_its_own() -> None:
    async def two(client: Client) -> list[Reply[str]]:
        return [await client.ask(prompt(f"summary {n}")) for n in range(2)]

    with running(FaultServer(lambda _: "modern", keep=True)) as server:
        replies, client = with_client(server, two, max_tokens=77)
    assert len(replies) == 2 and len(server.requests) == 4 and not client.ledger.retried
    for request in server.requests[2:]:
        assert request["max_completion_tokens"] == 77 and not {"max_tokens", "temperature"} & request.keys()
        assert request["response_format"]["type"] == "json_schema"


def test_many_that_find_out_at_once_agree_on_the_dialect() -> None:
    async def many(client: Client) -> int:
        return len(await asyncio.gather(*(client.ask(prompt(f"summary {n}")) for n in range(12))))

    with running(FaultServer(lambda _: "modern", delay=0.02)) as server:
        assert with_client(server, many, concurrency=8)[0] == 12


def test_structured_output_falls_back_to_what_the_endpoint_takes() -> None:
    async def two(client: Client) -> list[Reply[str]]:
        return [await client.ask(prompt(f"summary {n}")) for n in range(2)]

    with running(FaultServer(lambda _: "no_schema", keep=True)) as server:
        replies, _ = with_client(server, two)
        with pytest.raises(GaveUpError, match="response_format"):
            with_client(server, one, structured="schema")
    assert len(replies) == 2
    kinds = [r.get("response_format", {}).get("type") for r in server.requests]
    assert kinds == ["json_schema", "json_object", None, None, "json_schema"]
    assert server.requests[0]["response_format"]["json_schema"]["strict"] is True


def test_the_key_is_sent_and_appears_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    with running(FaultServer(script("400"))) as server:
        with pytest.raises(GaveUpError) as error:
            with_client(server, one, tmp_path, api_key_env="MY_KEY")
        with_client(server, one, tmp_path, api_key_env="MY_KEY")
    assert server.headers["authorization"] == f"Bearer {SECRET}"
    assert "Bearer ***" in str(error.value)
    kept = "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert kept and SECRET not in kept and SECRET not in caplog.text and SECRET not in repr(error.value)


def test_a_line_end_after_the_key_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{SECRET}\r\n")
    with running(FaultServer()) as server:
        with_client(server, one, api_key_env="MY_KEY")
    assert server.headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("wrong", ["\n", "\r", "\t", " ", "\x7f", "é"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", f"{SECRET}{wrong}{SECRET}")
    with pytest.raises(RecipeError, match="MY_KEY holds a space, a line end") as error:
        ClientSettings("m", "http://127.0.0.1:1/v1", api_key_env="MY_KEY").api_key()
    assert SECRET not in str(error.value)


def test_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(RecipeError, match="OPENAI_API_KEY"):
        ClientSettings("m").api_key()
    assert ClientSettings("m", "http://127.0.0.1:1/v1").api_key() == "none"
