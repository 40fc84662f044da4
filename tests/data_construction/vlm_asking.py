"""Prompts and clients for tests of the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from data_construction.vlm import BadReplyError, Client, ClientSettings, Prompt, Reply, ResponseCache
from tests.data_construction.fault_server import FaultServer

T = TypeVar("T")
SCHEMA = {"type": "object", "properties": {"summary": {"type": "string"}}}


def check(value: dict[str, Any]) -> str:
    if not isinstance(value.get("summary"), str):
        raise BadReplyError("missing_field", "no summary")
    return str(value["summary"])


def prompt(text: str = "summary please", **more: Any) -> Prompt[str]:
    return Prompt([{"role": "user", "content": text}], SCHEMA, check, **more)


def with_client(
    server: FaultServer, use: Callable[[Client], Awaitable[T]], cache: Path | None = None, **settings: Any
) -> tuple[T, Client]:
    async def main() -> tuple[T, Client]:
        given = {"timeout": 30.0, "backoff": 0.01, **settings}
        client = Client(ClientSettings("m", server.url, **given), ResponseCache(cache))
        try:
            return await use(client), client
        finally:
            await client.close()

    return asyncio.run(main())


async def one(client: Client) -> Reply[str]:
    return await client.ask(prompt())


def script(*faults: str | None) -> Callable[[int], str | None]:
    return lambda n: faults[n] if n < len(faults) else None
