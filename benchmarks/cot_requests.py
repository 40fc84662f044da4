"""How fast `videoseg data cot` prepares and sends requests, and how much memory it holds.

    python -m benchmarks.cot_requests --json benchmarks/results/cot_requests.json
    python -m benchmarks.cot_requests --memory 100000

A server of its own, in another process, answers every request after one second; 64 are in flight. Frames are 640 x 640
JPEG (as many pixels as 480p) with texture. No reply is taken from a cache; a frame is decoded again unless another
expression of the same clip has just shown it. Beside the rate stands the CPU time of a request, which depends less on
who else uses the machine. ``--memory`` streams many small items through the whole job, answered in this process, then
some thousand through the client and a server that answers at once, and prints its resident memory
(``benchmarks.cot_memory``). Each part says what limits it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from benchmarks.common import environment_facts, write_json
from benchmarks.cot_memory import memory, resident
from data_construction.cot.seed import SeedMethod, SeedSettings
from data_construction.cot.vts import VTSMethod
from data_construction.cot.vts_plan import VTSSettings
from data_construction.generate import Job, Source, run_job
from data_construction.readers import open_dataset
from data_construction.synthetic import make_synthetic
from data_construction.vlm import ClientSettings

IN_FLIGHT = 64
TEXT = "The target stands left of the tree from the first frame on and walks to the right"
FIELDS = ("summary", "keyframe", "target", "temporal", "spatial", "language", "action")
SIDE, FRAMES, CLIPS = 640, 56, 6


class Canned(asyncio.Protocol):
    """Reads a request as bytes, and answers after ``delay`` seconds."""

    def __init__(self, delay: float) -> None:
        self.delay, self.missing, self.head = delay, -1, b""
        message = {"role": "assistant", "content": json.dumps(dict.fromkeys(FIELDS, TEXT))}
        usage = {"prompt_tokens": 3000, "completion_tokens": 200, "total_tokens": 3200}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                           "usage": usage}).encode()  # fmt: skip
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = head.encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = self.head[:end].lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
            self.missing, data, self.head = length, self.head[end + 4 :], b""
        self.missing -= len(data)
        if self.missing == 0:
            self.missing = -1
            asyncio.get_running_loop().call_later(self.delay, self.transport.write, self.answer)  # type: ignore[attr-defined]


def serve(delay: float, pipe: Connection) -> None:
    """Until killed; sends its port."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Canned(delay), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class Repeated(Source):
    """The same expressions again and again: as many items as wanted from few clips."""

    total = 0

    def __len__(self) -> int:
        return self.total

    def items(self, done: Any) -> Iterator[Any]:
        left = self.total
        while left:
            for item in super().items(lambda _: False):
                if left == 0:
                    return
                left -= 1
                yield item


def texture(root: Path) -> float:
    """Give every frame a natural image's share of detail; returns the mean file size in KiB."""
    rng, sizes = np.random.default_rng(0), []
    for path in sorted(root.rglob("*.jpg")):
        image = cv2.imread(str(path))
        assert image is not None
        noise = cv2.GaussianBlur(rng.normal(0, 25, (*image.shape[:2], 1)).astype(np.float32), (0, 0), 1.2)[..., None]
        cv2.imwrite(str(path), np.clip(image + noise, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        sizes.append(path.stat().st_size / 1024)
    return float(np.mean(sizes))


def measure(method: Any, port: int, out: Path, threads: int, server: psutil.Process) -> dict[str, Any]:
    """One job; wall and CPU seconds."""
    settings = ClientSettings("m", f"http://127.0.0.1:{port}/v1", concurrency=IN_FLIGHT)
    before, served, begun = time.process_time(), sum(server.cpu_times()[:2]), time.monotonic()
    summary, ledger = run_job(Job(method, {}, out, settings, None, threads))
    wall, cpu = time.monotonic() - begun, time.process_time() - before
    assert summary.complete, summary
    requests = ledger.answered
    return {
        "items": summary.made,
        "requests": requests,
        "seconds": round(wall, 2),
        "requests_per_second": round(requests / wall, 1),
        "cpu_ms_per_request": round(1000 * cpu / requests, 2),
        "server_cpu_ms_per_request": round(1000 * (sum(server.cpu_times()[:2]) - served) / requests, 2),
        "mib_resident": resident(),
    }


def limit_of(figures: dict[str, Any]) -> str:
    """What bounds the rate: the server's second with 64 in flight, or the cores."""
    cpu = (figures["cpu_ms_per_request"] + figures["server_cpu_ms_per_request"]) / 1000
    cores = 2 / cpu
    if figures["requests_per_second"] > 0.85 * IN_FLIGHT:
        return f"the server ({IN_FLIGHT} in flight, 1 s each); two free cores could prepare {cores:.0f}/s"
    return f"CPU: {1000 * cpu:.1f} ms a request with the server's share, so {cores:.0f}/s on two free cores"


def start_server(delay: float) -> tuple[BaseProcess, int]:
    """A server in another process, and its port."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(delay, theirs), daemon=True)
    process.start()
    return process, ours.recv()


def held(folder: Path, items: int, over_http: int) -> dict[str, Any]:
    """Memory, answered here and by a server."""
    figures = {"memory": memory(items, folder / "here")}
    process, port = start_server(0.0)
    figures["memory_over_http"] = memory(over_http, folder / "http", f"http://127.0.0.1:{port}/v1")
    process.kill()
    for name, found in figures.items():
        print(f"{name}: {found}")
    return figures


def speed(folder: Path, items: int, threads: int) -> dict[str, Any]:
    """Both methods on frames of video size."""
    process, port = start_server(1.0)
    server, root = psutil.Process(process.pid), folder / "data"
    figures: dict[str, Any] = {}
    make_synthetic(root, {"train": CLIPS}, seed=1, frames=(FRAMES, FRAMES), size=SIDE)
    figures["frame_kib"] = round(texture(root), 1)
    methods: dict[str, Any] = {
        "seed": lambda s: SeedMethod(s, SeedSettings()),
        "vts": lambda s: VTSMethod(s, VTSSettings()),
    }
    for name, make in methods.items():
        source = Repeated(open_dataset("revos", root, "train"), wanted=lambda e: bool(e.anno_ids))
        source.total = items
        figures[name] = measure(make(source), port, folder / name, threads, server)
        figures[name]["limit"] = limit_of(figures[name])
        print(f"cot {name}: {figures[name]}")
    process.kill()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--items", type=int, default=1200, help="per method")
    parser.add_argument("--threads", type=int, default=2, help="that prepare requests")
    parser.add_argument("--memory", type=int, default=0, help="instead: so many trivial items, memory at 1, 50, 100 %%")
    parser.add_argument("--over-http", type=int, default=5000, help="with --memory: so many through a server")
    args = parser.parse_args()
    figures: dict[str, Any] = {"load_average": os.getloadavg(), "in_flight": IN_FLIGHT}
    with tempfile.TemporaryDirectory() as folder:
        if args.memory:
            figures |= held(Path(folder), args.memory, args.over_http)
        else:
            figures |= speed(Path(folder), args.items, args.threads)
    print(f"load average {figures['load_average']} before, {os.getloadavg()} after")
    figures["load_average_after"] = os.getloadavg()
    if args.json:
        write_json(args.json, {**environment_facts(), **figures})


if __name__ == "__main__":
    main()
