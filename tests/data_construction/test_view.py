"""The gallery: the right traces on it, their turns and pictures, and everything escaped."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_construction.readers import open_dataset
from data_construction.traces import Sources
from eval.report.images import GT_COLOUR, PRED_COLOUR
from eval.traces import GalleryReport, choose, trace_sources, write_gallery
from rollout.errors import DataError, RecipeError
from tests.data_construction.trace_files import Line, boxed, planned, read, write

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Tags with attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._raw else data

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [a for t, a in self.found if t == tag and css in a.get("class", "")]


@pytest.fixture(scope="module")
def folder(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``verify`` leaves it: verified ones of both methods, and rejected ones, some of them hostile."""
    out = tmp_path_factory.mktemp("verified")
    good = planned(synthetic)[:14] + boxed(synthetic, "test")[:6]
    bad = copy.deepcopy(planned(synthetic)[14:20])
    for n, line in enumerate(bad):
        check = ("overlay_leak", "interval")[n % 2]
        failures = [{"check": check, "reason": f"because of {HOSTILE}"}, {"check": "length", "reason": "short"}]
        line |= {"status": "rejected", "check": check, "reason": failures[0]["reason"], "failures": failures}
    bad[0]["exp"] = f"the {HOSTILE}"
    bad[1]["record"]["conversations"][2]["value"] = f"<think>Step 1: {HOSTILE}</think> no action </article>"
    bad[2]["clip"] = "nowhere"
    write(out / "verified.jsonl", good)
    write(out / "rejected.jsonl", [*bad, {"id": "line 3", "line": "{", "status": "rejected", "check": "unreadable",
                                               "reason": "line 3: not JSON"}])  # fmt: skip
    return out


def make(folder: Path, root: Path, out: Path, **rest: Any) -> tuple[GalleryReport, Tags]:
    report = write_gallery(folder, out / "page.html", Sources.parse([str(root)]), **rest)
    return report, Tags(report.path.read_text())


@pytest.fixture(scope="module")
def page(folder: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[GalleryReport, Tags]:
    return make(folder, synthetic, tmp_path_factory.mktemp("page"))


def test_every_trace_with_its_verdict_turns_and_thinking(page: tuple[GalleryReport, Tags], folder: Path) -> None:
    report, tags = page
    lines = read(folder / "verified.jsonl") + read(folder / "rejected.jsonl")[:-1]
    assert (report.shown, report.total) == (26, 26) and "All 26 traces are on this page" in tags.text
    articles = tags.all("article", "trace")
    assert [a["data-verdict"] for a in articles] == ["verified"] * 20 + ["rejected"] * 6
    assert [a["data-kind"] for a in articles] == [line["kind"] for line in lines]
    assert [a["data-check"] for a in articles][20:] == ["overlay_leak", "interval"] * 3
    replies = [c["value"] for line in lines for c in line["record"]["conversations"] if c["from"] == "gpt"]
    assert tags.text.count("Turn ") == len(replies)
    for reply in replies:
        for piece in re.split(r"</?think>|(?:Step \d|Action):", reply):
            assert " ".join(piece.split()) in " ".join(tags.text.split()), piece
    assert "length: short" in tags.text


def test_counts_on_the_buttons(page: tuple[GalleryReport, Tags], folder: Path) -> None:
    _, tags = page
    buttons = {(a["data-filter"], a["data-value"]) for a in tags.all("button") if "data-filter" in a}
    kinds = {line["kind"] for line in read(folder / "verified.jsonl") + read(folder / "rejected.jsonl")[:-1]}
    assert {v for k, v in buttons if k == "verdict"} == {"verified", "rejected"}
    assert {v for k, v in buttons if k == "kind"} == kinds
    assert {v for k, v in buttons if k == "check"} == {"overlay_leak", "interval"}
    assert all(a["type"] == "button" and a["aria-pressed"] == "false" for a in tags.all("button") if "data-filter" in a)
    assert re.search(r"verified20\s*rejected6", tags.text.replace("\n", ""))


def test_text_stays_text_and_only_our_script_may_run(page: tuple[GalleryReport, Tags]) -> None:
    report, tags = page
    raw = report.path.read_text()
    assert len(tags.all("script")) == 1 and not [a for _, a in tags.found if any(k.startswith("on") for k in a)]
    assert tags.text.count("<script>document.title='owned'</script>") >= 4
    policy = next(a["content"] for a in tags.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = raw.partition("<script>")[2].partition("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.split("script-src")[1]
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in tags.all("img"))
    assert not re.search(r"https?://", re.sub(r"data:[^\"]+", "", raw))


def test_a_trace_without_its_clip_is_shown_without_pictures_and_named(page: tuple[GalleryReport, Tags]) -> None:
    report, tags = page
    assert report.problems[0] == "line 3: not JSON" and "'nowhere'" in report.problems[1]
    assert "No pictures: trace" in tags.text and "2 could not be drawn" in tags.text


def pixels(image: dict[str, str]) -> np.ndarray:
    content = base64.b64decode(image["src"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def near(array: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(array - colour).max(axis=2) < 60).sum())


def test_pictures_show_the_target_outlined_and_the_boxes(synthetic: Path, tmp_path: Path) -> None:
    line = next(d for d in boxed(synthetic, "test") if len(d["record"]["frames"]) >= 4)
    _, tags = make(write(tmp_path / "one.jsonl", [line]), synthetic, tmp_path)
    *small, large = tags.all("img")
    assert len(small) == len(line["record"]["frames"]) and ", 1 box" in large["alt"]
    sample = open_dataset("revos", synthetic, "test").get(line["clip"], line["expression_id"])
    assert sample.masklets is not None
    for picture, frame in zip(small, line["record"]["frames"], strict=True):
        there = sample.masklets.union(frame).any()
        assert picture["alt"] == f"frame {frame}, {'target outlined' if there else 'no target'}"
        assert (near(pixels(picture), GT_COLOUR) > 5) == there
    assert near(pixels(large), PRED_COLOUR) > 100
    assert [a["data-verdict"] for a in tags.all("article")] == ["unchecked"]


def test_more_traces_than_the_limit_are_drawn_fairly_and_said(folder: Path, synthetic: Path, tmp_path: Path) -> None:
    report, tags = make(folder, synthetic, tmp_path, limit=8)
    assert (report.shown, report.total) == (8, 26) and "8 of 26 traces are on this page" in tags.text
    assert {a["data-verdict"] for a in tags.all("article", "trace")} == {"verified", "rejected"}
    assert "verified20" in tags.text
    same = choose(trace_sources(folder), 8).entries
    assert same == choose(trace_sources(folder), 8).entries
    shown = {tuple(e.place for e in choose(trace_sources(folder), 8, seed).entries) for seed in range(5)}
    assert len(shown) > 1
    only = choose(trace_sources(folder), 8, wanted=lambda e: e.check == "interval")
    assert [e.check for e in only.entries] == ["interval"] * 3 and only.total == 3


def test_wrong_input_is_named(synthetic: Path, tmp_path: Path) -> None:
    sources = Sources.parse([str(synthetic)])
    for path, what in (
        (tmp_path / "no", "no such file"),
        (tmp_path, "no traces there"),
        (tmp_path / "empty.jsonl", "no trace to show"),
        (tmp_path / "page.txt", "traces are .jsonl"),
    ):
        if path.suffix:
            path.write_text("")
        with pytest.raises(DataError, match=what):
            write_gallery(path, tmp_path / "out.html", sources)
    assert not (tmp_path / "out.html").exists()
    broken = write(tmp_path / "b.jsonl", planned(synthetic)[:2])
    broken.write_text(broken.read_text() + '{"id": "x", "method"\n' + json.dumps({"id": "torn"}))
    report = write_gallery(broken, tmp_path / "out.html", sources)
    assert report.shown == 2 and "line 3: not JSON" in report.problems[0] and "line 4: torn" in report.problems[1]


def test_a_split_without_masks_has_plain_pictures(synthetic: Path, tmp_path: Path) -> None:
    from eval.traces.choose import Entry
    from eval.traces.clips import trace_view
    from rollout.types import Sample

    line: Line = planned(synthetic)[0]
    entry = choose([write(tmp_path / "t.jsonl", [line])], 1).entries[0]
    sample = open_dataset("revos", synthetic, "valid").get(line["clip"], line["expression_id"])
    view = trace_view(Entry(1, entry.trace, "verified"), Sample(sample.clip, sample.expression))
    assert view.visible is None and all(p.label == f"frame {p.frame}" for t in view.turns for p in t.shown)


def test_boxes_are_drawn_in_the_square_that_the_trace_names(synthetic: Path, tmp_path: Path) -> None:
    """The same boxes in pixels of a square of half the side lie in the same place."""
    line = next(d for d in boxed(synthetic, "test") if len(d["record"]["bbox_2d_list"]) == 1)
    half = copy.deepcopy(line)
    old, new = line["record"]["bbox_2d_list"], [[v / 2 for v in b] for b in line["record"]["bbox_2d_list"]]
    reply = half["record"]["conversations"][-1]
    reply["value"] = reply["value"].replace(json.dumps(old), json.dumps(new))
    half |= {"shown": {"side": 280, "fps": 1.0}}
    drawn = []
    for n, given in enumerate((line, half)):
        _, tags = make(write(tmp_path / f"{n}.jsonl", [given]), synthetic, tmp_path)
        drawn.append(tags.all("img")[-1]["src"])
    assert drawn[0] == drawn[1]
    with pytest.raises(RecipeError, match="was made with side 280"):
        make(tmp_path / "1.jsonl", synthetic, tmp_path, side=560)
    _, tags = make(tmp_path / "0.jsonl", synthetic, tmp_path, side=1120)
    assert tags.all("img")[-1]["src"] != drawn[0]
