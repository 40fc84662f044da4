"""The viewer in a real browser: lists, filters, groups by keyboard, two runs, a run that goes on, and hostile text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.viewer_runs import write_run
from rollout.types import Sample
from tests.verl_ext.viewer.conftest import GROUPS, ROLLOUTS, STEPS, served
from verl_ext.rollout_log import read_header, step_files, write_step
from verl_ext.viewer import open_source, write_static

pytest.importorskip("selenium")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

PATIENCE = 60


@pytest.fixture(scope="module")
def site(runs: tuple[Path, Path]) -> Iterator[str]:
    with served(*runs) as address:
        yield address


@pytest.fixture
def browser(browser_of: Callable[..., Any]) -> Iterator[Any]:
    """One that has complained about nothing when the test is over, and whose title no script has changed."""
    chromium = browser_of()
    chromium.get_log("browser")
    yield chromium
    assert chromium.title != "owned"
    assert [entry for entry in chromium.get_log("browser") if "favicon" not in entry["message"]] == []


def until(browser: Any, what: Callable[[Any], Any]) -> Any:
    return WebDriverWait(browser, PATIENCE, 0.1).until(what)


def all_of(browser: Any, css: str) -> list[Any]:
    return browser.find_elements(By.CSS_SELECTOR, css)  # type: ignore[no-any-return]


def one(browser: Any, css: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, css)


def press(browser: Any, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def loaded(browser: Any, css: str) -> bool:
    """Whether the first such picture is there and drawn."""
    script = "const i = document.querySelector(arguments[0]); return !!i && i.complete && i.naturalWidth > 0"
    return bool(browser.execute_script(script, css))


def test_a_run_opens_filters_and_pages(site: str, browser: Any) -> None:
    browser.get(site)
    rows = all_of(browser, "#list tbody tr")
    assert len(rows) == 50 and one(browser, "#page").text == "page 1 of 2"
    total = STEPS * GROUPS * ROLLOUTS
    assert one(browser, "#count").text.startswith(f"{total} of {total} rollouts, in {STEPS * GROUPS} of")
    assert all_of(browser, "script[src], link[rel=stylesheet]") == [], "nothing is fetched to show the page"
    Select(one(browser, "select[name=stop]")).select_by_value("bad_action")
    shown = all_of(browser, "#list tbody tr")
    assert 0 < len(shown) < 50 and all("bad action" in row.text for row in shown)
    assert "stop=bad_action" in browser.current_url
    browser.refresh()
    assert len(all_of(browser, "#list tbody tr")) == len(shown), "an address keeps its filters"
    press(browser, "c")
    assert len(all_of(browser, "#list tbody tr")) == 50
    one(browser, "input[name=from]").send_keys("7")
    one(browser, "input[name=to]").send_keys("8")
    assert {row.find_element(By.TAG_NAME, "td").text for row in all_of(browser, "#list tbody tr")} == {"7", "8"}
    one(browser, "input[name=low]").send_keys("99")
    assert one(browser, "#none").text == "Nothing fits these filters." and not one(browser, "#list").is_displayed()


def test_hostile_text_stays_text(site: str, browser: Any) -> None:
    browser.get(site)
    assert "<script>" in one(browser, "h1").text
    one(browser, "input[name=q]").send_keys("document.title")
    row = one(browser, "#list tbody tr a")
    assert "the cat <script>" in row.text
    row.click()
    until(browser, lambda b: "group-" in b.current_url)
    assert "the cat <script>" in one(browser, "main h1").text
    assert browser.execute_script("return document.querySelectorAll('main script, main [onerror]').length") == 0
    assert browser.title.startswith("the cat <script>")


def test_the_pointer_reads_a_curve_and_a_click_goes_to_its_step(site: str, browser: Any) -> None:
    browser.get(site)
    script = """const s = document.querySelector('.curve svg'), r = s.getBoundingClientRect();
        const at = {clientX: r.left + r.width * 0.5, clientY: r.top + 50, bubbles: true};
        s.dispatchEvent(new PointerEvent('pointermove', at));
        const said = document.querySelector('.curve output').textContent;
        s.dispatchEvent(new MouseEvent('click', at));
        return said"""
    said = browser.execute_script(script)
    step = int(said.removeprefix("step ").partition(":")[0])
    assert 10 <= step <= 20 and " A " in said and " B " in said
    assert {row.find_element(By.TAG_NAME, "td").text for row in all_of(browser, "#list tbody tr")} == {str(step)}


def test_a_group_is_walked_by_keyboard(site: str, browser: Any) -> None:
    browser.get(site)
    press(browser, "j", Keys.ENTER)
    until(browser, lambda b: "group-a-30-0" in b.current_url)
    columns = all_of(browser, ".column")
    assert len(columns) == ROLLOUTS and len(all_of(browser, "table.rewards tbody tr")) == ROLLOUTS

    def here() -> str:
        return str(browser.switch_to.active_element.get_attribute("aria-label"))

    press(browser, "j")
    assert here().startswith("dialogue 1, turn 1:")
    press(browser, Keys.ARROW_RIGHT)
    assert here().startswith("dialogue 2, turn 1:")
    for _ in range(5):
        press(browser, Keys.ARROW_DOWN)
    turns = len(columns[1].find_elements(By.CSS_SELECTOR, ".turn"))
    assert here().startswith(f"dialogue 2, turn {turns}:"), "the last turn is the end"
    press(browser, "h")
    assert here().startswith("dialogue 1, turn")
    until(browser, lambda b: loaded(b, ".column .mask") and loaded(b, ".strip img"))
    truth = one(browser, ".layer.truth")
    assert not truth.is_displayed()
    press(browser, "g")
    until(browser, lambda b: one(b, ".layer.truth").is_displayed())
    press(browser, "m")
    assert not one(browser, ".layer.mask").is_displayed()
    thinking = one(browser, "details.think")
    assert thinking.get_attribute("open") is None
    press(browser, "t")
    assert thinking.get_attribute("open") is not None and "Step 1" in thinking.text
    press(browser, "?")
    assert one(browser, "#keys").is_displayed()
    press(browser, Keys.ESCAPE)
    press(browser, "m", "g", "t", "n")
    until(browser, lambda b: "group-a-30-1" in b.current_url)
    press(browser, "p")
    until(browser, lambda b: "group-a-30-0" in b.current_url)
    press(browser, "u")
    until(browser, lambda b: "index.html" in b.current_url)


def test_two_runs_side_by_side_on_the_same_prompt(site: str, browser: Any) -> None:
    browser.get(site)
    Select(one(browser, "select[name=sort]")).select_by_value("gain")
    gains = [cell.text for cell in all_of(browser, "#list td:last-child .gain")]
    values = [float(g.replace("\N{MINUS SIGN}", "-")) for g in gains]
    assert len(values) > 5 and values == sorted(values, reverse=True)
    one(browser, "#list a.beside").click()
    until(browser, lambda b: "pair-" in b.current_url)
    a, b = all_of(browser, "section.run")
    samples = [s.find_element(By.CSS_SELECTOR, ".meta span").text for s in (a, b)]
    assert samples[0] == samples[1] and a.text != b.text
    assert len(all_of(browser, ".column")) == 2 * ROLLOUTS
    until(browser, lambda b: loaded(b, ".column .mask"))


def test_a_run_that_goes_on_is_followed(
    tmp_path: Path, runs: tuple[Path, Path], viewer_samples: list[Sample], browser: Any
) -> None:
    run = tmp_path / "run"
    write_run(run, viewer_samples, 2, 1, 2)
    (run / "metrics.jsonl").rename(run / "metrics.live.jsonl")
    with served(run) as address:
        browser.get(address)
        assert one(browser, "#state").text.endswith("running")
        assert one(browser, "#count").text.startswith("4 of 4 rollouts")
        newest = step_files(runs[0])[-1]
        from verl_ext.rollout_log import read_group

        write_step(run, 3, [read_group(newest, read_header(newest, runs[0]), 0, runs[0])])
        with (run / "metrics.live.jsonl").open("a") as f:
            f.write(json.dumps({"step": 3, "data": {"reward/mean": 9.0}}) + '\n{"step": 4, "da')  # half a line
        until(browser, lambda b: one(b, "#count").text.startswith(f"{4 + ROLLOUTS} of {4 + ROLLOUTS}"))
        until(browser, lambda b: "→ 9" in one(b, ".curve").text)
        (run / "rollouts" / "step_000002.jsonl").write_text("{half")
        until(browser, lambda b: "step_000002.jsonl" in one(b, "#problems").text)
        assert "cut off" in one(browser, "#problems").text


def test_deleted_and_moved_frames_are_shown_as_such(tmp_path: Path, tiny_data: Path, browser: Any) -> None:
    from data_construction.readers import open_dataset

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    found = [s for s in open_dataset("revos", data, "train").samples() if s.expression.anno_ids]
    write_run(tmp_path / "run", found, 1, 1, 2)
    shutil.move(data, tmp_path / "elsewhere")
    with served(tmp_path / "run") as address:
        browser.get(f"{address}group-a-1-0.html")
        warning = one(browser, "main > .warning").text
        assert "frames are not where the run saw them" in warning and "--moved OLD=NEW" in warning
        until(browser, lambda b: loaded(b, ".tile img"))  # a grey picture that says so
        assert "Traceback" not in browser.page_source
        browser.get("about:blank")  # else pictures out of sight are asked for when nobody answers any more


def test_files_open_from_disk(tmp_path: Path, runs: tuple[Path, Path], browser: Any) -> None:
    folder = tmp_path / "pages"
    assert write_static([open_source(run) for run in runs], folder, limit=5) == 5
    browser.get((folder / "index.html").as_uri())
    assert len(all_of(browser, "#list tbody tr")) == 5 and len(all_of(browser, ".curve svg")) >= 2
    assert "5 of 60 groups" in one(browser, "#problems").text
    one(browser, "#list td.words a").click()
    until(browser, lambda b: len(all_of(b, ".column")) == ROLLOUTS)
    until(browser, lambda b: loaded(b, ".tile img") and loaded(b, ".layer.mask"))
    press(browser, "u")
    until(browser, lambda b: "index.html" in b.current_url)
    one(browser, "#list a.beside").click()
    until(browser, lambda b: len(all_of(b, ".column")) == 2 * ROLLOUTS)


@pytest.mark.parametrize(("dark", "paper"), [(False, "rgb(251, 251, 249)"), (True, "rgb(21, 23, 26)")])
def test_dark_and_light(site: str, browser_of: Callable[..., Any], dark: bool, paper: str) -> None:
    chromium = browser_of(dark)
    chromium.get(site)
    colour = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour == paper


def test_nothing_is_wider_than_a_telephone(site: str, browser: Any) -> None:
    browser.set_window_size(500, 900)
    try:
        for name in ("", "group-a-3-0.html", "pair-3-0-and-3-0.html"):
            browser.get(site + name)
            needed, there = browser.execute_script(
                "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert needed <= there, name
    finally:
        browser.set_window_size(1400, 1000)


def test_what_a_screen_reader_hears(site: str, browser: Any) -> None:
    """Every picture, field, link and region has a name; one main region, a heading, a language."""
    script = """
        const named = (e) => e.alt !== undefined && e.tagName === 'IMG' ? e.hasAttribute('alt')
            : !!(e.getAttribute('aria-label') || e.closest('label')?.textContent.trim() || e.textContent.trim()
                || e.title);
        const all = (css) => [...document.querySelectorAll(css)];
        const bad = all('img, button, input, select, a[href], [role=img]').filter((e) => !named(e));
        const heard = all('section.column, article.turn').every((e) => e.getAttribute('aria-label'));
        return [bad.map((e) => e.outerHTML.slice(0, 90)), all('main').length, heard,
            document.documentElement.lang, all('h1').length > 0]"""
    for name in ("", "group-a-3-0.html"):
        browser.get(site + name)
        assert browser.execute_script(script) == [[], 1, True, "en", True], name
