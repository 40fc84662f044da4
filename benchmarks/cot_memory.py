"""Memory of a long job: many small items through the whole of it (see ``cot_requests``).

Answered in this process, so that a hundred thousand take minutes; or by a server through the real client, which shows
that requests, connections and retries hold nothing either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from data_construction.generate import Item, JobFolder, Runner
from data_construction.vlm import Client, ClientSettings, Prompt, ResponseCache, Usage
from data_construction.vlm.cache import CachedReply
from data_construction.vlm.exchange import Answer
from rollout.types import Clip, Expression, Sample

IN_FLIGHT = 64
REPLY = '{"summary": "The target stands left of the tree from the first frame on and walks to the right"}'


class Trivial:
    """A method without frames: what the job itself costs."""

    def __init__(self, total: int, print_at: dict[int, str]) -> None:
        self.source: Any = self
        self.total, self.print_at = total, print_at
        self.seen = 0
        self.rss: dict[str, float] = {}

    def ids(self) -> Iterator[str]:
        return (f"none/none/clip_{n // 10:06d}/{n % 10}" for n in range(self.total))

    def __len__(self) -> int:
        return self.total

    def items(self, done: Any) -> Iterator[Any]:
        for id in self.ids():
            sample = Sample(Clip("clip", ("a.jpg",), 1, 1), Expression("0", "the target"))
            yield None if done(id) else Item(id, sample)

    def prepare(self, item: Item) -> Trivial._Work:
        return self._Work(self, item, "x" * 4000)

    def estimate(self, item: Item) -> list[int]:
        return [1000]

    def failure(self, item: Any, reason: str, usage: Usage) -> dict[str, Any]:
        return {"id": item.id, "reason": reason}

    class _Work:
        def __init__(self, method: Trivial, item: Item, text: str) -> None:
            self.method, self.item, self.text = method, item, text

        async def ask(self, client: Client) -> dict[str, Any]:
            reply = await client.ask(Prompt([{"role": "user", "content": self.item.id + self.text}], {}, dict, 1000))
            self.method.seen += 1
            share = self.method.print_at.get(self.method.seen)
            if share is not None:
                self.method.rss[share] = resident()
                print(f"  {share} ({self.method.seen} items): {self.method.rss[share]:.1f} MiB resident", flush=True)
            return {"id": self.item.id, "status": "ok", "record": reply.value, "text": self.text}


class Instant(Client):
    """Answers by itself, after letting others run."""

    async def _attempt(self, prompt: Any, dialect: Any) -> Any:
        await asyncio.sleep(0)
        self.ledger.add(Usage(3000, 200), prompt.prompt_tokens)
        return Answer(CachedReply(REPLY, 3000, 200), Usage(3000, 200), cut=False)


def resident() -> float:
    """MiB of this process."""
    return round(psutil.Process().memory_info().rss / 2**20, 1)


def memory(total: int, out: Path, url: str = "") -> dict[str, Any]:
    """Resident memory while ``total`` items pass, and after their file was put in order and opened again.

    With ``url`` they are sent there, else answered here.
    """
    method = Trivial(total, {max(1, total * p // 100): f"{p} %" for p in (1, 10, 50, 100)})

    async def run() -> None:
        settings = ClientSettings("m", url or "http://127.0.0.1:1/v1", concurrency=IN_FLIGHT)
        client = (Client if url else Instant)(settings, ResponseCache(None))
        with JobFolder(out, {}) as folder:
            summary = await Runner(method, client, folder, threads=1).run()
        assert summary.complete and summary.made == total
        await client.close()

    begun, before = time.monotonic(), time.process_time()
    asyncio.run(run())
    wall, cpu = time.monotonic() - begun, time.process_time() - before
    method.rss["in order"] = resident()
    with JobFolder(out, {}) as folder:
        assert len(folder) == total and folder.done(next(method.ids()))
    method.rss["opened again"] = resident()
    busy = f"{1000 * cpu / total:.2f} ms of CPU an item"
    limit = f"this process: {busy} in {cpu:.0f} of {wall:.0f} s" if cpu > 0.85 * wall else f"waiting, beside {busy}"
    return {"items": total, "seconds": round(wall, 1), "resident_mib_at": method.rss, "limit": limit}
