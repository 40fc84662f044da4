"""The report in a real browser: text stays text, nothing runs, the charts have their shapes and colours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.report import build_report
from tests.eval.test_report import Tags, run_input

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed: the page is checked without a browser")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def browse(page: Path, profile: Path, *action: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *action, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(run_input(tmp_path_factory.mktemp("frames")), tmp_path_factory.mktemp("report") / "report.html")


def test_hostile_text_stays_text(page: Path, tmp_path: Path) -> None:
    dom = browse(page, tmp_path / "profile", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title.group(1).startswith("run &lt;script&gt;"), "a script changed the title"
    tags = Tags(dom)  # the DOM as the browser built it, written out again
    names = [name for name, _ in tags.found]
    assert "script" not in names and not [a for _, a in tags.found if any(key.startswith("on") for key in a)]
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in dom.partition("<body>")[2]
    assert names.count("svg") >= 10 and names.count("polyline") >= 5 and names.count("article") >= 3


@pytest.mark.parametrize(
    ("scheme", "paper", "bar"), [("1", (251, 251, 249), (42, 120, 214)), ("0", (21, 23, 26), (57, 135, 229))]
)
def test_charts_are_painted_light_and_dark(page: Path, tmp_path: Path, scheme: str, paper: tuple, bar: tuple) -> None:  # type: ignore[type-arg]
    shot = tmp_path / "page.png"
    look = f"--blink-settings=preferredColorScheme={scheme}"
    browse(page, tmp_path / "profile", look, "--window-size=1100,4000", f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)

    def share(colour: tuple[int, int, int]) -> float:
        return float((np.abs(pixels - colour).max(axis=2) <= 2).mean())

    assert share(paper) > 0.2, "the page has not the background of its colour scheme"
    assert share(bar) > 0.003, "the charts' first series is not painted"
