"""The report in a real browser: text stays text, nothing runs, the charts have their shapes and colours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from eval.report import build_report
from eval.report.evaluation import build_evaluation_report
from tests.eval.report.test_report import Tags, run_input
from tests.eval.report.test_report_evaluation import evaluation_input

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


def shot(page: Path, folder: Path, scheme: str, width: int, height: int) -> NDArray[np.int64]:
    """(height, width, 3) what the browser paints; scheme 0 is dark, 1 light."""
    picture = folder / "page.png"
    look = f"--blink-settings=preferredColorScheme={scheme}"
    browse(page, folder / "profile", look, f"--window-size={width},{height}", f"--screenshot={picture}")
    return np.asarray(Image.open(picture).convert("RGB")).astype(np.int64)


def share(pixels: NDArray[np.int64], colour: tuple[int, int, int], off: int = 2) -> float:
    """Of the pixels, those of a colour."""
    return float((np.abs(pixels - colour).max(axis=2) <= off).mean())


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


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames, folder = tmp_path_factory.mktemp("frames"), tmp_path_factory.mktemp("evaluation")
    return build_evaluation_report(evaluation_input(frames), folder / "report.html")


def test_evaluation_page_in_a_browser(evaluated: Path, tmp_path: Path) -> None:
    dom = browse(evaluated, tmp_path / "profile", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title.group(1).startswith("Evaluation &lt;script&gt;"), "a script changed the title"
    names = [name for name, _ in Tags(dom).found]
    assert "script" not in names and names.count("article") >= 4 and names.count("table") >= 5
    pixels = shot(evaluated, tmp_path, "1", 1100, 6000)
    for what, colour, least in (
        ("the histogram", (42, 120, 214), 0.002),
        ("bars of the groups", (33, 96, 196), 0.002),
        ("outlines of the truth", (0, 190, 140), 1e-5),
        ("outlines of the prediction", (255, 45, 145), 1e-5),
    ):
        assert share(pixels, colour, 12) > least, f"{what} cannot be seen"


def test_nothing_is_wider_than_a_telephone(evaluated: Path, page: Path, tmp_path: Path) -> None:
    """Tables scroll inside their boxes, the page itself does not. A script, let in for the test, measures it."""
    probe = tmp_path / "probe.html"
    measure = "<script>document.title = [document.documentElement.scrollWidth, window.innerWidth]</script></body>"
    for one in (evaluated, page):
        free = re.sub(r"<meta http-equiv=.Content-Security-Policy.*?>", "", one.read_text())
        probe.write_text(free.replace("</body>", measure))
        dom = browse(probe, tmp_path / "profile", "--window-size=500,900", "--dump-dom")
        needed, there = re.search(r"<title>(\d+),(\d+)</title>", dom).groups()  # type: ignore[union-attr]
        assert int(needed) <= int(there) == 500, one


@pytest.mark.parametrize(
    ("scheme", "paper", "bar"), [("1", (251, 251, 249), (42, 120, 214)), ("0", (21, 23, 26), (57, 135, 229))]
)
def test_charts_are_painted_light_and_dark(page: Path, tmp_path: Path, scheme: str, paper: tuple, bar: tuple) -> None:  # type: ignore[type-arg]
    pixels = shot(page, tmp_path, scheme, 1100, 4000)
    assert share(pixels, paper) > 0.2, "the page has not the background of its colour scheme"
    assert share(pixels, bar) > 0.003, "the charts' first series is not painted"
