"""A run on the tiny data, served; and a browser to look at it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.viewer_runs import write_run
from rollout.types import Expression, Sample
from tests.eval.clips import BAIT
from verl_ext.viewer import Site, open_source
from verl_ext.viewer.server import application

STEPS, GROUPS, ROLLOUTS = 30, 2, 4


@pytest.fixture(scope="session")
def viewer_samples(tiny_data: Path) -> list[Sample]:
    """Expressions with a target; the first one's text is hostile."""
    from data_construction.readers import open_dataset

    found = [s for s in open_dataset("revos", tiny_data, "train").samples() if s.expression.anno_ids]
    e = found[0].expression
    hostile = Expression(e.id, f"the cat {BAIT}", e.anno_ids, e.type_id, e.kind)
    return [replace(found[0], expression=hostile), *found[1:]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, viewer_samples: list[Sample]) -> tuple[Path, Path]:
    """Two runs on the same prompts; read-only."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("first", 0), ("second", 1)):
        write_run(folder / name, viewer_samples, STEPS, GROUPS, ROLLOUTS, seed, name=f"{name} {BAIT}")
    return folder / "first", folder / "second"


@contextmanager
def served(*folders: Path, roots: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a server that shows them."""
    import socket

    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    site = Site([open_source(folder, roots) for folder in folders])
    server = uvicorn.Server(uvicorn.Config(application(site), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="session")
def browser_of() -> Iterator[Callable[..., Any]]:
    """``browser_of(dark=False)``: a Chromium of this machine, driven."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("no chromium or chromedriver installed: the pages are checked without a browser")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    opened: dict[bool, Any] = {}

    def make(dark: bool = False) -> Any:
        if dark not in opened:
            options = webdriver.ChromeOptions()
            options.binary_location = chromium
            scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
            for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", scheme):
                options.add_argument(flag)
            options.add_argument("--window-size=1400,1000")
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            opened[dark] = webdriver.Chrome(options=options, service=Service(driver))
        return opened[dark]

    yield make
    for browser in opened.values():
        browser.quit()
