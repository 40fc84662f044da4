"""What ``videoseg demo`` takes beyond ``videoseg eval`` on one clip: ``python benchmarks/demo_overhead.py POLICY``.

Starts a policy's engine once and asks it about the same sentences, in turn as evaluation does (dialogues, masks,
results on disk) and as a visitor does, through the page's own server and Gradio's client: upload, turns as they are
generated, film, archive, downloads. Every round has a copy of the clip of its own, so that nothing was encoded before;
the first round of each is left out. Both commands start the same engine: ``overhead`` is that of the whole commands on
one clip, ``overhead_warm`` that of a further clip, without the start. Without ``--clip`` it is a drawn one.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment_facts, write_json
from data_construction.synthetic.worlds import get_world
from rollout.video import video_facts
from verl_ext.demo.engine import VIDEOS, Engine
from verl_ext.demo.film import write_pictures
from verl_ext.demo.limits import Limits
from verl_ext.demo.serve import application, request_for
from verl_ext.demo.visits import GUESTS, scratch
from verl_ext.run.prepare import recipe_of_policy

SEED, FPS = 7, 8


def drawn(path: Path, frames: int, size: int) -> list[str]:
    """A clip of coloured shapes, and two sentences about it."""
    clip = get_world("shapes").draw(SEED, "test", 0, (frames, frames), size, {"attribute": 2.0})
    write_pictures(path, clip.frames, np.arange(frames) / FPS)
    return [e.text for e in clip.expressions[:2]]


def evaluated(engine: Engine, folder: Path, clip: Path, sentences: Sequence[str]) -> Callable[[int], float]:
    """Seconds of `eval.inference.run.infer`, as ``videoseg eval`` calls it."""

    def once(n: int) -> float:
        place = folder / f"eval_{n}"
        (place / VIDEOS).mkdir(parents=True)
        shutil.copyfile(clip, place / VIDEOS / clip.name)
        began = time.perf_counter()
        job = engine.ask(place, sentences)
        job.over.wait()
        assert all(a.record is not None for a in job.answers()), job.answers()
        return time.perf_counter() - began

    return once


def visited(address: str, folder: Path, clip: Path, sentences: Sequence[str]) -> Callable[[int], float]:
    """Seconds from the upload to the film and masks on the visitor's disk."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=str(folder / "home"))

    def once(n: int) -> float:
        own = folder / f"visit_{n}{clip.suffix}"
        own.write_bytes(clip.read_bytes() + bytes(n))  # other bytes, or Gradio would take it for the last one
        began = time.perf_counter()
        said, _, film, files, *_ = client.predict(handle_file(own), "\n".join(sentences), api_name="/ask")
        seconds = time.perf_counter() - began
        assert "Done." in said and film and len(files) == 3, said
        return seconds

    return once


def served(engine: Engine, folder: Path, limits: Limits) -> str:
    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = application(engine, folder, "policy", "127.0.0.1", limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--recipe", type=Path, help="default: that of the policy's run")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--clip", type=Path, help="with --sentence; default: a drawn one")
    parser.add_argument("--sentence", action="append")
    parser.add_argument("--frames", type=int, default=48, help="of the drawn clip")
    parser.add_argument("--size", type=int, default=96, help="side of the drawn clip, in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    recipe = args.recipe or recipe_of_policy(args.policy)
    with scratch() as folder, tempfile.TemporaryDirectory() as work:
        clip, sentences = args.clip, args.sentence
        if clip is None:
            clip = Path(work) / "clip.mp4"
            sentences = drawn(clip, args.frames, args.size)
        request = request_for(args.policy, recipe, tuple(args.overrides), args.device, 1)(folder / GUESTS)
        began = time.perf_counter()
        engine = Engine.start(request)
        start = time.perf_counter() - began
        try:
            figures = measure(engine, folder, Path(work), clip, sentences, args.rounds)
        finally:
            engine.close()
        facts = video_facts(clip)
    whole = (start + figures["demo_median_s"]) / (start + figures["eval_median_s"]) - 1
    figures |= {"start_s": round(start, 1), "overhead": round(whole, 3)}
    figures |= {"frames": facts.num_frames, "width": facts.width, "height": facts.height, "sentences": len(sentences)}
    for name, value in figures.items():
        print(f"{name:18s} {value}")
    if args.json:
        where = environment_facts("cuda" if args.device == "cuda" else "cpu")
        where["versions"] |= environment_facts(packages=("gradio", "av", "pillow"))["versions"]
        write_json(args.json, {"benchmark": "demo_overhead", **where, **figures})


def measure(
    engine: Engine, folder: Path, work: Path, clip: Path, sentences: Sequence[str], rounds: int
) -> dict[str, Any]:
    address = served(engine, folder, Limits())
    arms = {"eval_s": evaluated(engine, work, clip, sentences), "demo_s": visited(address, work, clip, sentences)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for n in range(rounds + 1):
        for name, once in arms.items():
            seconds[name].append(once(n))
    kept = {name: [round(s, 3) for s in values[1:]] for name, values in seconds.items()}
    evaluation, demo = (statistics.median(kept[name]) for name in arms)
    return {
        **kept,
        "eval_median_s": evaluation,
        "demo_median_s": demo,
        "overhead_warm": round(demo / evaluation - 1, 3),
    }


if __name__ == "__main__":
    main()
