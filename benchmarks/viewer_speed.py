"""How fast ``videoseg view`` shows a run of 10 000 rollouts: ``python benchmarks/viewer_speed.py --json FILE``.

Makes synthetic clips and a run of that many rollouts, starts the command, and opens its pages in headless Chromium
(Debian's ``chromium`` and ``chromium-driver``, and the ``selenium`` package). First paint and loaded are the browser's
own times from the request on; the first page is the server's first answer, for which it reads every step. Groups are
opened one after the other, none twice; their time ends when every picture in sight is drawn. The file says how many
processes wanted the machine's cores meanwhile.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import environment_facts, write_json
from benchmarks.viewer_runs import write_run

ROOT = Path(__file__).resolve().parents[1]
PAINT = """const paint = performance.getEntriesByName('first-contentful-paint')[0];
    const load = performance.getEntriesByType('navigation')[0];
    return paint && load.loadEventEnd ? [paint.startTime, load.loadEventEnd] : null"""
DRAWN = """const seen = [...document.querySelectorAll('.tile img')].filter((i) => {
        const r = i.getBoundingClientRect();
        return r.width > 0 && r.top < innerHeight && r.left < innerWidth && r.bottom > 0 && r.right > 0; });
    return seen.length > 0 && seen.every((i) => i.complete && i.naturalWidth > 0) ? performance.now() : null"""


def make_run(work: Path, rollouts: int, group: int, size: int) -> Path:
    """625 steps of two groups of eight, unless asked for otherwise; made once."""
    from data_construction.readers import open_dataset
    from data_construction.synthetic import make_synthetic

    data, run = work / f"data_{size}", work / f"run_{rollouts}_{group}_{size}"
    make_synthetic(data, {"train": 24}, seed=0, size=size)
    samples = [s for s in open_dataset("revos", data, "train").samples() if s.expression.anno_ids]
    if not (run / "metrics.jsonl").exists():
        shutil.rmtree(run, ignore_errors=True)
        write_run(run, samples, rollouts // (2 * group), 2, group)
    return run


def browser() -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1000",
    ):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def measure(run: Path, groups: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "verl_ext.cli.main", "view", str(run), "--port", "0"]
    chromium = browser()
    chromium.get("about:blank")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        started = time.monotonic() - began
        try:
            first = page(chromium, address)
            rows = chromium.execute_script("return document.querySelector('#count').textContent")
            again = page(chromium, address)
            typed = filtered(chromium)
            times = [group(chromium, f"{address}group-a-{step}-0.html") for step in range(2, 2 + groups)]
        finally:
            server.terminate()
            chromium.quit()
    return {
        "listed": rows,
        "command_to_address_s": round(started, 2),
        "first_page": first,
        "second_page": again,
        "filter_ms": round(typed, 1),
        "group_paint_s": spread([t[0] for t in times]),
        "group_pictures_s": spread([t[1] for t in times]),
    }


def page(chromium: Any, address: str) -> dict[str, float]:
    chromium.get(address)
    paint, loaded = asked(chromium, PAINT)
    return {"first_paint_s": round(paint / 1000, 3), "loaded_s": round(loaded / 1000, 3)}


def asked(chromium: Any, script: str) -> Any:
    """What the browser says, once it has something to say."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (found := chromium.execute_script(script)) is not None:
            return found
        time.sleep(0.01)
    raise TimeoutError(f"{chromium.current_url}: not drawn in a minute")


def filtered(chromium: Any) -> float:
    """Milliseconds of a keystroke in the search."""
    script = """const q = document.querySelector('[name=q]'), t = performance.now();
        q.value = 'square'; q.dispatchEvent(new Event('input', {bubbles: true}));
        document.body.offsetHeight; return performance.now() - t"""
    return float(chromium.execute_script(script))


def group(chromium: Any, address: str) -> tuple[float, float]:
    """Seconds to the first paint, and to the last picture in sight."""
    chromium.get(address)
    drawn, (paint, _) = asked(chromium, DRAWN), asked(chromium, PAINT)
    return paint / 1000, drawn / 1000


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "most": round(max(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--group", type=int, default=8, help="rollouts of a group")
    parser.add_argument("--size", type=int, default=448, help="side of the clips' frames, in pixels")
    parser.add_argument("--groups", type=int, default=20, help="so many are opened")
    parser.add_argument("--work", default="runs/benchmarks/viewer_speed", help="folder for data and run")
    args = parser.parse_args()
    run = make_run(Path(args.work).resolve(), args.rollouts, args.group, args.size)
    load = os.getloadavg()[0]
    figures = measure(run, args.groups)
    version = subprocess.run(["chromium", "--version"], capture_output=True, text=True).stdout
    figures |= {"rollouts": args.rollouts, "group": args.group, "frame_side": args.size, "load_before": round(load, 1)}
    figures["chromium"] = " ".join(re.findall(r"[\d.]{5,}", version)[:1])
    for name, value in figures.items():
        print(f"{name:22s} {value}")
    if args.json:
        packages = ("starlette", "uvicorn", "jinja2", "pillow", "numpy", "selenium")
        write_json(args.json, {"benchmark": "viewer_speed", **environment_facts(packages=packages), **figures})


if __name__ == "__main__":
    main()
