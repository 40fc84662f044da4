"""The demo's page in a real browser: a clip goes in, the film comes out, a click is answered, nothing stays behind."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.video import video_facts
from tests.eval.clips import BAIT
from tests.verl_ext.demo.conftest import FRAMES, LEFT, LIMITS, NOTHING, RIGHT, WatchedScript
from tests.videos import write_video
from verl_ext.demo.engine import Engine

pytest.importorskip(
    "gradio",
    reason="no Gradio here: the page is not checked (`make install` brings it with the extra `demo`; all behind it is)",
)
pytest.importorskip("selenium")
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 60


@pytest.fixture
def address(engine: Engine, place: Path) -> Iterator[str]:
    import uvicorn

    from verl_ext.demo.serve import application

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = application(engine, place, "some/policy", "127.0.0.1", LIMITS)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture
def browser(address: str, tmp_path: Path) -> Iterator[Any]:
    """A Chromium on the page, whose downloads go to ``tmp_path / "home"``; no text changed its title by a script."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("no chromium or chromedriver installed: the page is not checked")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,1600",
    ):
        options.add_argument(flag)
    several = {"profile.default_content_setting_values.automatic_downloads": 1}
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "home"), **several})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.get(address)
    until(made, lambda b: one(b, "#ask"))
    until(made, lambda b: b.find_elements(By.CSS_SELECTOR, "#clip input[type=file]"))
    yield made
    assert made.title != "owned"
    made.quit()


def until(browser: Any, what: Callable[[Any], Any]) -> Any:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    gone = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, PATIENCE, 0.1, ignored_exceptions=gone).until(what)


def one(browser: Any, css: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, css)


def ask(browser: Any, clip: Path | None, *sentences: str) -> None:
    if clip is not None:
        one(browser, "#clip input[type=file]").send_keys(str(clip))
        until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#clip video"))
    box = one(browser, "#sentences textarea")
    box.clear()
    box.send_keys("\n".join(sentences))
    one(browser, "#ask").click()


def said(browser: Any, words: str) -> None:
    until(browser, lambda b: words in one(b, "#said").text)


def test_a_clip_goes_in_and_the_film_comes_out(
    browser: Any, worker: WatchedScript, engine: Engine, place: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "mine.mp4", [500 * t for t in range(FRAMES)])
    worker.go_on.clear()
    ask(browser, clip, LEFT, RIGHT, NOTHING)
    until(browser, lambda b: "looking" in one(b, "#turns").text)
    assert "answering" in one(browser, "#turns").text, "turns are there before the end"
    worker.go_on.set()
    said(browser, "Done.")
    turns = one(browser, "#turns")
    assert turns.text.count("turn 1") == 3 and len(turns.find_elements(By.CSS_SELECTOR, "img")) >= 3 * 4
    assert BAIT in turns.text and "{{1}} ${1}" in turns.text, "hostile text stays text"
    assert browser.execute_script("return document.querySelectorAll('#turns script, #turns [onerror]').length") == 0
    plays = "const v = document.querySelector('#film video'); return v && v.readyState >= 2 && v.videoWidth"
    assert until(browser, lambda b: b.execute_script(plays)) == 320

    for link in browser.find_elements(By.CSS_SELECTOR, "#files a[download]"):
        browser.execute_script("arguments[0].click()", link)
    home = tmp_path / "home"
    names = ["mine_masks.jsonl", "mine_masks.zip", "mine_overlay.mp4"]
    until(browser, lambda b: home.is_dir() and sorted(p.name for p in home.iterdir()) == names)
    assert video_facts(home / "mine_overlay.mp4").num_frames == FRAMES
    assert len(zipfile.ZipFile(home / "mine_masks.zip").namelist()) == 3 * FRAMES + 1
    assert {json.loads(line)["text"] for line in (home / "mine_masks.jsonl").open()} == {LEFT, RIGHT, NOTHING}

    picture = until(browser, lambda b: one(b, "#seen img"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    ActionChains(browser).move_to_element_with_offset(picture, -60, 0).click().perform()
    until(browser, lambda b: "IoU" in one(b, "#verdict").text or "sees no object" in one(b, "#verdict").text)
    until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#own img"))
    (asked,) = engine.cluster.pool.calls[-1]
    assert abs(asked.point[0] - (32 - 60 * 64 / picture.size["width"])) < 2 and abs(asked.point[1] - 24) < 2

    asked_for = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked_for if m["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 10
    assert [u for u in urls if not u.startswith((browser.current_url, "data:", "blob:"))] == [], "no other machine"

    assert list((place / "guests").iterdir()) and browser.title == "videoseg demo"
    browser.get("about:blank")
    until(browser, lambda b: not list((place / "guests").iterdir()))
    until(browser, lambda b: sorted(p.name for p in place.iterdir()) == ["examples", "guests"])


def test_an_example_is_answered(browser: Any) -> None:
    until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".table-wrap tbody tr, .gallery button"))[0].click()
    until(browser, lambda b: one(b, "#sentences textarea").get_attribute("value"))
    until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#clip video"))
    one(browser, "#ask").click()
    said(browser, "Done.")
    assert "16 frames" not in one(browser, "#said").text and one(browser, "#film video")


def test_what_is_not_taken_is_said_by_name(browser: Any, tmp_path: Path) -> None:
    ask(browser, None, LEFT)
    said(browser, "Bring a clip first")
    ask(browser, write_video(tmp_path / "long.mp4", range(0, 41 * 40, 40)), LEFT)
    said(browser, "long.mp4: has 41 frames (2 s), at most 40 are taken")
    assert one(browser, "#said [role=alert]")


def test_an_upload_that_is_too_large_is_stopped(browser: Any, tmp_path: Path, place: Path) -> None:
    big = tmp_path / "big.mp4"
    big.write_bytes(bytes(2 << 20))
    one(browser, "#clip input[type=file]").send_keys(str(big))
    toast = until(browser, lambda b: one(b, ".toast-body").text)
    assert 'exceed the maximum allowed size of 1.0 Mb: "big.mp4"' in toast
    assert not list(place.rglob("big.mp4"))


def test_other_names_and_files_are_refused(address: str, tmp_path: Path) -> None:
    def status(path: str, **headers: str) -> int:
        try:
            return int(urllib.request.urlopen(urllib.request.Request(address + path, headers=headers)).status)
        except urllib.error.HTTPError as e:
            return e.code

    assert status("") == 200
    assert status("", Host="evil.example") == 400, "a page of the network cannot ask this machine for it"
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    assert status(f"gradio_api/file={secret}") in (403, 404)
    assert status("gradio_api/file=/etc/passwd") in (403, 404)
