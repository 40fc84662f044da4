"""A whole benchmark, from RLE on disk to the table: ours against the public tool's way, in one run.

    python benchmarks/score_speed.py [--clips 50] [--expressions 4] [--frames 60] [--cores 2] [--json FILE]

Both sides are commands of their own, timed from start to end, imports included. The tool's way, as the public scorers
for RLE results go: read all of the files, decode every mask, then per frame two half-pixel boundary maps, two dilations
by the disk and the counts (``rewards.metrics.plain``); with one process and with one a core. J and F of all expressions
must be equal before any time is printed. The commands take turns; the shortest time of each counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import write_json

ROOT = Path(__file__).resolve().parents[1]
SIZE = "480p"
Pair = tuple[str, list[Any], list[Any]]


def write_benchmark(root: Path, clips: int, expressions: int, frames: int) -> None:
    """MeViS' layout (valid_u) without images, which scoring never opens, and results of all expressions.

    The expressions of a clip mean the same object and have the same answer: neither side keeps anything of it.
    """
    from benchmarks.jf_speed import SIZES, blob_clip, encode
    from eval.results.record import ResultRecord, TurnRecord
    from eval.results.results_file import ResultsFile
    from rollout.types import Action, StopReason

    height, width = SIZES[SIZE]
    videos, masks = {}, {}
    turn = TurnRecord("", Action.ANSWER, None, 0, (0,), 1)
    with ResultsFile(root / "run" / "results.jsonl") as results:
        for c in range(clips):
            name = f"clip{c:03d}"
            texts = {str(e): f"the blob of clip {c}, said in way {e}" for e in range(expressions)}
            pred, gt = (encode(m) for m in blob_clip(height, width, frames, seed=c))
            masks[str(c)] = [{"size": list(r["size"]), "counts": r["counts"].decode()} for r in gt]
            videos[name] = {
                "frames": [f"{t:05d}" for t in range(frames)],
                "height": height,
                "width": width,
                "expressions": {e: {"exp": text, "obj_id": [0], "anno_id": [c]} for e, text in texts.items()},
            }
            for e, text in texts.items():
                head = (name, e, text, None, "", frames, height, width, (0,))
                results.append(ResultRecord(*head, StopReason.ANSWERED, (turn,), tuple(pred)))
    (root / "valid_u").mkdir()
    (root / "valid_u" / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    (root / "valid_u" / "mask_dict.json").write_text(json.dumps(masks))


def tool_pairs(root: Path) -> Iterator[Pair]:
    """(name, prediction, ground truth) of every expression, all files read first."""
    videos = json.loads((root / "valid_u" / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((root / "valid_u" / "mask_dict.json").read_text())
    with (root / "run" / "results.jsonl").open() as file:
        results = {(r["clip"], r["expression_id"]): r["prediction"] for r in map(json.loads, file)}
    for clip, video in videos.items():
        for eid, expression in video["expressions"].items():
            yield f"{clip}/{eid}", results[clip, eid], masks[str(expression["anno_id"][0])]


def tool_one(pair: Pair) -> tuple[str, float, float]:
    """Mean J and F of one expression."""
    import cv2
    import numpy as np

    from benchmarks.jf_speed import plain_from_rle

    cv2.setNumThreads(1)
    name, pred, gt = pair
    j, f = plain_from_rle(pred, gt)
    return name, float(np.mean(j)), float(np.mean(f))


def run_tool(root: Path, processes: int, out: Path) -> None:
    """The tool's side, in this process."""
    pairs = list(tool_pairs(root))
    if processes == 1:
        rows = [tool_one(pair) for pair in pairs]
    else:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            rows = pool.map(tool_one, pairs, chunksize=1)
    out.write_text(json.dumps({name: [j, f] for name, j, f in rows}))


def commands(root: Path, processes: int) -> dict[str, list[str]]:
    python, here = sys.executable, str(Path(__file__).resolve())
    ours = [python, "-m", "verl_ext.cli.main", "score", str(root / "run"), "--benchmark", "mevis_u"]

    def tool(n: int) -> list[str]:
        return [python, here, "--tool", str(root), "--cores", str(n), "--out", str(root / f"tool{n}.json")]

    def own(n: int) -> list[str]:
        workers = ["--workers", "1"] if n == 1 else []  # else what a user gets unasked on so many cores
        return [*ours, "--root", str(root), *workers, "--out", str(root / f"ours{n}")]

    counts = dict.fromkeys((1, processes))
    return {f"tool_{n}": tool(n) for n in counts} | {f"ours_{n}": own(n) for n in counts}


def timed(command: list[str]) -> tuple[float, float]:
    """(seconds on the clock, CPU seconds of the process and of those children that it waited for)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def check_equal(root: Path, processes: int) -> None:
    """Raise SystemExit unless all commands found the same J and F of every expression, to the last bit."""
    expected = json.loads((root / f"tool{processes}.json").read_text())
    for n in {1, processes}:
        rows = json.loads((root / f"ours{n}" / "scores.json").read_text())["expressions"]
        found = {f"{r['clip']}/{r['expression_id']}": [r["j"], r["f"]] for r in rows}
        percent = {name: [100 * j, 100 * f] for name, (j, f) in expected.items()}
        if found != percent or json.loads((root / f"tool{n}.json").read_text()) != expected:
            raise SystemExit("scores of the two sides differ; times would mean nothing")


def measure(clips: int, expressions: int, frames: int, repeats: int, processes: int) -> dict[str, Any]:
    """Shortest seconds of each command, and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_benchmark(root, clips, expressions, frames)
        arms = commands(root, processes)
        timed(arms["ours_1"])  # compiles the kernels, where this machine has not yet
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        load = [os.getloadavg()[0]]
        for _ in range(repeats):
            for name, command in arms.items():
                times[name].append(timed(command))
        load.append(os.getloadavg()[0])
        check_equal(root, processes)
    seconds = {name: min(clock for clock, _ in found) for name, found in times.items()}
    # Of one process each: on a machine that does other things too, a steadier ratio than the clock's.
    cpu = {name: min(cpu for _, cpu in times[name]) for name in ("tool_1", "ours_1")}
    return {
        "clips": clips,
        "expressions": clips * expressions,
        "frames": clips * expressions * frames,
        "size": SIZE,
        "cores": processes,
        "repeats": repeats,
        "load_before_and_after": load,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "ratio_1_core_cpu": cpu["tool_1"] / cpu["ours_1"],
        "ratio_1_core": seconds["tool_1"] / seconds["ours_1"],
        f"ratio_{processes}_cores": seconds[f"tool_{processes}"] / seconds[f"ours_{processes}"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--expressions", type=int, default=4)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--tool", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tool is not None:
        run_tool(args.tool, args.cores, args.out)
        return
    from eval.scores.info import versions

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    found = measure(args.clips, args.expressions, args.frames, args.repeats, args.cores)
    print(f"{found['expressions']} expressions, {found['frames']} frames of {SIZE}, from RLE to the table; seconds")
    print(f"{'cores':>10} {'tool':>9} {'ours':>9} {'ratio':>8}")
    for n in dict.fromkeys((1, args.cores)):
        tool, ours = found["seconds"][f"tool_{n}"], found["seconds"][f"ours_{n}"]
        print(f"{n:>10} {tool:9.2f} {ours:9.2f} {tool / ours:7.1f}x")
    print(f"one process each, in CPU seconds: {found['ratio_1_core_cpu']:.1f}x")
    if args.json:
        facts = {
            "benchmark": "score_speed",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": f"{os.cpu_count()} CPU cores",
            "versions": versions("numpy", "numba", "opencv-python-headless", "pycocotools"),
        }
        write_json(args.json, {**facts, **found})


if __name__ == "__main__":
    main()
