"""The gallery in a real browser, from a file address: filters, search and keys work, hostile text stays text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_construction.traces import Sources
from eval.traces import write_gallery
from tests.data_construction.test_view import HOSTILE
from tests.data_construction.trace_files import boxed, planned, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed: the page is checked without a browser")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

USE = """
const seen = [];
const shown = () => [...document.querySelectorAll("article.trace")].filter((a) => a.offsetParent !== null);
const press = (key, at = document.body) => at.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const note = (what) => seen.push([what, shown().length, document.getElementById("count").textContent,
  document.activeElement.id || document.activeElement.tagName]);
const button = (value) => document.querySelector(`button[data-value="${value}"]`);
note("start");
button("rejected").click(); note("rejected");
button("interval").click(); note("and interval");
press("c"); note("cleared");
press("1"); note("first verdict"); press("1");
press("/"); note("to the search");
const search = document.getElementById("search");
search.value = "OWNED"; search.dispatchEvent(new Event("input")); note("found");
press("j", search); note("typing a j"); press("Escape", search);
press("c"); press("j"); press("j"); note("second"); press("k"); note("first");
search.value = "no such words"; search.dispatchEvent(new Event("input")); note("nothing");
const none = !document.getElementById("none").hidden;
press("c"); press("o");
const open = [...document.querySelectorAll("article.trace details")].every((d) => d.open);
press("?");
document.body.insertAdjacentHTML("beforeend", `<pre id="seen"></pre>`);
document.getElementById("seen").textContent = JSON.stringify({
  seen, none, open, keys: !document.getElementById("keys").hidden, title: document.title,
  images: [...document.images].filter((i) => i.loading !== "lazy" || i.complete).every((i) => i.naturalWidth > 0),
  pressed: button("rejected").getAttribute("aria-pressed"),
});
"""


def browse(page: Path, profile: Path, *action: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *action, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.fixture(scope="module")
def page(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten verified traces, three rejected: two of them by the interval check, one that tries to break out."""
    out = tmp_path_factory.mktemp("gallery")
    bad = planned(synthetic)[10:13]
    for n, line in enumerate(bad):
        check = "length" if n else "interval"
        line |= {"status": "rejected", "check": check, "failures": [{"check": check, "reason": HOSTILE}]}
    bad[2]["record"]["conversations"][2]["value"] = f"<think>{HOSTILE}</think></script></article>"
    write(out / "verified.jsonl", planned(synthetic)[:6] + boxed(synthetic, "test")[:4])
    write(out / "rejected.jsonl", bad)
    return write_gallery(out, out / "page.html", Sources.parse([str(synthetic)])).path


@pytest.fixture(scope="module")
def used(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a user's clicks and keys lead to; the script that plays the user is let in by its own hash."""
    raw = page.read_text()
    digest = base64.b64encode(hashlib.sha256(USE.encode()).digest()).decode()
    copy = page.with_name("used.html")
    policy = raw.replace("script-src 'sha256-", f"script-src 'sha256-{digest}' 'sha256-", 1)
    copy.write_text(policy.replace("</body>", f"<script>{USE}</script></body>"))
    dom = browse(copy, tmp_path_factory.mktemp("profile"), "--dump-dom")
    found = re.findall(r'<pre id="seen">(\{.*?)</pre>', dom, re.DOTALL)
    assert found, "the script stopped before its end"
    return json.loads(html.unescape(found[-1]))  # type: ignore[no-any-return]


def test_filters_search_and_keys(used: dict[str, Any]) -> None:
    steps = {name: (count, text, focus) for name, count, text, focus in used["seen"]}
    assert steps["start"][:2] == (13, "13 shown")
    assert steps["rejected"][:2] == (3, "3 of 13 shown")
    assert steps["and interval"][0] == 1 and steps["cleared"][0] == 13
    assert steps["first verdict"][0] == 10
    assert steps["to the search"][2] == "search"
    assert steps["found"][0] == 1 and steps["typing a j"] == (1, "1 of 13 shown", "search")
    assert (steps["second"][2], steps["first"][2]) == ("t2", "t1")
    assert steps["nothing"][0] == 0 and used["none"] and used["open"] and used["keys"]
    assert used["pressed"] == "false"


def test_nothing_breaks_out_and_pictures_decode(used: dict[str, Any]) -> None:
    assert used["title"].startswith("Traces of ")
    assert used["images"]


@pytest.mark.parametrize(("scheme", "paper"), [("1", (251, 251, 249)), ("0", (21, 23, 26))])
def test_it_is_painted_light_and_dark(page: Path, tmp_path: Path, scheme: str, paper: tuple[int, int, int]) -> None:
    shot = tmp_path / "page.png"
    look = f"--blink-settings=preferredColorScheme={scheme}"
    browse(page, tmp_path / "profile", look, "--window-size=1100,1600", f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)

    def share(colour: tuple[int, int, int]) -> float:
        return float((np.abs(pixels - colour).max(axis=2) <= 2).mean())

    assert share(paper) > 0.05, "the page has not the background of its colour scheme"
    target = {"1": (0, 166, 122), "0": (31, 209, 160)}[scheme]
    assert share(target) > 0.001, "the timeline's target bar is not painted"
