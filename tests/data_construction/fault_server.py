"""A small chat endpoint for tests: answers depend on the question alone, and misbehaves on demand.

``faults(n)`` says how the n-th attempt (from 0) at one and the same question goes wrong; None answers it. Runs in a
thread with an event loop of its own, or as a process: ``python -m tests.data_construction.fault_server PORT_FILE``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Faults = Callable[[int], str | None]
Answer = Callable[[dict[str, Any]], str]
RETRY_AFTER = 0.2


def sensible(body: dict[str, Any]) -> str:
    """Fills every text that the schema (or, without one, the last message) asks for with words of its own."""
    text = json.dumps(body["messages"])
    mark = hashlib.sha256(text.encode()).hexdigest()[:6]
    names = ("summary", "keyframe", "target") if "summary" in text else ("temporal", "spatial", "language", "action")
    return json.dumps({name: f"The {name} is seen, as {mark} shows." for name in names})


@dataclass
class FaultServer:
    """What it saw is counted: ``bodies`` by digest, headers of the last request, most requests at once."""

    faults: Faults = lambda _: None
    answer: Answer = sensible
    delay: float = 0.0
    keep: bool = False
    """Keep every request's body in ``requests``."""
    bodies: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    now: int = 0
    most: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(self.headers.get("content-length", "0")))
        self.now, self.most = self.now + 1, max(self.most, self.now + 1)
        try:
            return await self._reply(raw, writer)
        finally:
            self.now -= 1

    async def _reply(self, raw: bytes, writer: asyncio.StreamWriter) -> bool:
        name = hashlib.sha256(raw).hexdigest()
        fault = self.faults(self.bodies[name])
        self.bodies[name] += 1
        self.times.append(asyncio.get_running_loop().time())
        body = json.loads(raw)
        if self.keep:
            self.requests.append(body)
        await asyncio.sleep(self.delay)
        if fault == "drop":
            return False
        if fault == "slow":
            await asyncio.sleep(5.0)
        if fault == "no_schema" and "response_format" in body:
            return await send(writer, 400, {"error": {"message": "response_format is not supported here"}})
        if fault == "modern" and "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return await send(writer, 400, {"error": {"message": said, "param": "max_tokens"}})
        if fault == "modern" and "temperature" in body:
            said = "Unsupported value: 'temperature' does not support 0.7 with this model."
            return await send(writer, 400, {"error": {"message": said, "param": "temperature"}})
        if fault is not None and fault.startswith("inside"):  # A gateway's answer: all is well, but for an error.
            code = int(fault.removeprefix("inside"))
            return await send(writer, 200, {"error": {"message": f"upstream said {code}", "code": code}})
        if fault == "limit":
            error = {"error": {"message": "too many requests", "code": "rate_limit_exceeded"}}
            return await send(writer, 429, error, {"Retry-After": str(RETRY_AFTER)})
        if fault is not None and fault.isdigit():
            said = f"error {fault} for {self.headers.get('authorization', '')}"
            return await send(writer, int(fault), {"error": {"message": said}})
        if fault == "quota":
            return await send(writer, 429, {"error": {"message": "no credit", "code": "insufficient_quota"}})
        content = {"prose": "I would rather not.", "empty": "", "wrong": '{"summary": 3}'}.get(fault or "")
        text = self.answer(body) if content is None else content
        whole = json.dumps(completion(text, raw, cut=fault == "cut", refuse=fault == "refuse")).encode()
        if fault == "half":  # Closes in the middle of a body whose length it promised.
            writer.write(header(200, len(whole)) + whole[: len(whole) // 2])
            await writer.drain()
            return False
        if fault == "garbled":
            whole = whole[: len(whole) // 2]
        writer.write(header(200, len(whole)) + whole)
        await writer.drain()
        return True


def completion(text: str, raw: bytes, cut: bool = False, refuse: bool = False) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": "no" if refuse else None}
    choice = {"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}
    usage = {"prompt_tokens": 100 + len(raw) % 50, "completion_tokens": 40, "total_tokens": 200}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def header(status: int, length: int, extra: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"{k}: {v}" for k, v in (extra or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def send(writer: asyncio.StreamWriter, status: int, body: Any, extra: dict[str, str] | None = None) -> bool:
    raw = json.dumps(body).encode()
    writer.write(header(status, len(raw), extra) + raw)
    await writer.drain()
    return True


@contextlib.contextmanager
def running(server: FaultServer) -> Iterator[FaultServer]:
    """In a thread, on a free port of loopback."""
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def main() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listening.sockets[0].getsockname()[1]
        ready.set()

    def work() -> None:
        loop.run_until_complete(main())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def main() -> None:
    """Serve until killed; the port goes to the named file."""

    async def serve() -> None:
        server = FaultServer()
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        scratch = Path(sys.argv[1] + ".new")
        scratch.write_text(str(listening.sockets[0].getsockname()[1]))
        scratch.replace(sys.argv[1])
        await listening.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
