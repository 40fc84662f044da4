"""The report: what it says, what it must not say, and that it stands alone."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.report import ReportInput, ReportStage, build_report
from eval.report.charts import Series, line_chart, stacked_chart
from eval.report.charts.svg import nice_ticks, number
from eval.report.choice import choose
from eval.report.dialogue import split_turn
from eval.report.images import decode, overlay
from eval.report.verdict import Verdict, judge, paired_change
from eval.scores.in_memory import score_results
from rollout.errors import DataError
from rollout.types import Sample
from tests.eval.clips import BAIT, FRAMES, disk, record, rle, samples, shifted

METRICS = [
    {
        "step": i,
        "reward/mean": 2 + i / 10,
        "reward/mask_iou": math.nan if i == 2 else i / 20,
        "stop/answered": 0.75,
        "stop/bad_action": 0.25,
        "kl": 0.001 * i,
        "loss/mask": 1.0,
        "seconds/rollout": 2.0,
        "seconds/update": 1.0,
        "seconds/total": 3.0,
    }
    for i in range(1, 9)
]
SUMMARY = {"jf_untrained": 60.0, "jf_rl": 82.3, "reward_first": 2.1, "seconds": 600, "step_seconds": {"rollout": 2.0}}


def run_input(folder: Path) -> ReportInput:
    """Untrained predicts nothing; after RL the attribute kind is nearly right and the temporal one far off."""
    truth = samples(folder)
    before = [record(s, [None] * FRAMES, thinking=BAIT) for s in truth]
    after = [record(s, shifted(s, 30 if s.expression.kind == "temporal" else 1), thinking=BAIT) for s in truth]
    stages = [
        ReportStage(name, title, score_results(records, truth, seed=3), records, truth)
        for name, title, records in (("untrained", "untrained", before), ("rl", "RL", after))
    ]
    return ReportInput(f"run {BAIT}", SUMMARY, stages, METRICS, notes=["a note & more"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ReportInput:
    return run_input(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def page(run: ReportInput, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(run, tmp_path_factory.mktemp("report") / "deep" / "report.html").read_text()


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all of them close."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_stands_alone(page: str) -> None:
    tags = Tags(page)
    assert tags.open == []
    names = [name for name, _ in tags.found]
    assert not {"script", "iframe", "object", "link", "base", "form"} & set(names)
    for name, attributes in tags.found:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/jpeg;base64,")), (name, attributes)
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_model_and_data_text_is_escaped(page: str) -> None:
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;document.title=") >= 4  # title, heading, expression and thinking
    assert "a note &amp; more" in page


def test_headline_and_what_was_not_learnt(page: str) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "predict nothing 66.7" in text and "after RL 82.3" in text
    assert "held-out reward before RL 2.10" in text and "held-out reward after RL not measured" in text
    assert "after cold start not measured" in text and "peak memory not measured" in text
    assert "Not learnt: temporal." in text
    assert re.search(r"untrained → RL [+-]\d", text) and "paired" in text
    assert "stays silent" in text and "10.0 min" in text


def test_charts_and_clips_are_there(page: str, run: ReportInput) -> None:
    for caption in ("Mean reward of a rollout", "mask iou", "Why episodes ended", "Seconds of an RL step", "KL to the"):
        assert f"<figcaption>{caption}" in page
    assert "total:" not in page  # a phase that is the sum of the others would count twice
    drawn = page.count('<article class="clip">')
    assert 3 <= drawn <= 6 and page.count('class="strip gt"') == drawn
    assert page.count('class="strip pred"') == drawn * len(run.stages)
    assert page.count('class="turn"') == 2 * drawn
    assert "[SEG]" in page and "ended: answered" in page and "key 5" in page
    assert len(page) < 2_000_000


def test_bars_of_phases_add_up() -> None:
    svg = stacked_chart("c", [1, 2], {"a": [1.0, 1.0], "b": [3.0, math.nan]}, "s")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="bar', svg)]
    assert len(heights) == 3
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01) and heights[2] == pytest.approx(heights[0])
    assert "b: 3 s" in svg


def test_many_steps_are_binned() -> None:
    steps = list(range(1000))
    svg = stacked_chart("c", steps, {"a": [1.0] * 1000}, "s")
    assert 50 <= svg.count("<rect") <= 60
    assert line_chart("c", [Series("a", steps, [math.nan] * 1000)]) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.2), (5, 5), (0, 0), (1e-6, 3e-6), (-4000, 9000)])
def test_ticks_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9


def test_numbers() -> None:
    assert [number(v) for v in (0, 1, -0.25, 1234.5, 0.00012, 20.0, -0.00001)] == [
        "0", "1", "\N{MINUS SIGN}0.25", "1234", "0.0001", "20", "0"
    ]  # fmt: skip


def judged(truth: list[Sample], predict: Any, kind: str, learnt_at: float = 70) -> Verdict:
    scores = score_results([record(s, predict(i, s)) for i, s in enumerate(truth)], truth)
    return judge(scores.by_kind[kind], learnt_at).verdict


def test_verdicts(tmp_path: Path) -> None:
    truth = samples(tmp_path)
    assert judged(truth, lambda i, s: shifted(s, 0), "attribute") is Verdict.LEARNT
    assert judged(truth, lambda i, s: shifted(s, 2), "attribute", learnt_at=99) is Verdict.NOT_LEARNT
    assert judged(truth, lambda i, s: [None] * FRAMES, "attribute", learnt_at=0) is Verdict.NOT_LEARNT
    assert judged(truth, lambda i, s: [None] * FRAMES, "no target") is Verdict.STAYS_SILENT
    one_clip_right = judged(truth, lambda i, s: shifted(s, 0 if i < 3 else 30), "attribute", learnt_at=0)
    assert one_clip_right is Verdict.NOT_LEARNT  # above the baseline, but by less than two standard errors
    assert judged(truth[:3], lambda i, s: shifted(s, 0), "attribute") is Verdict.NOT_LEARNT  # one expression


def test_change_is_paired(run: ReportInput) -> None:
    change = paired_change(run.stages[0].scores, run.stages[1].scores)
    assert change.n == 12
    assert change.mean == pytest.approx(run.stages[1].scores.jf - run.stages[0].scores.jf)


def test_clips_are_chosen_by_score_and_kind(run: ReportInput) -> None:
    rows = run.stages[-1].scores.expressions
    chosen = {label: row for row, labels in choose(rows) for label in labels}
    seen = [row.jf for row in rows if row.visible_frames]
    assert chosen["best"].jf == max(seen) and chosen["worst"].jf == min(seen)
    assert {"median", "median of attribute", "median of temporal", "median of no target"} <= set(chosen)
    assert choose([]) == []


def test_masks_are_drawn_where_they_are() -> None:
    mask = disk(30, 20, 9)
    frame = np.full((*mask.shape, 3), (200, 40, 10), np.uint8)
    drawn = overlay(frame, mask, (1, 2, 3))
    assert (drawn[20, 30] == frame[20, 30]).all(), "the inside keeps its colour"
    assert (drawn[20, 22] == (1, 2, 3)).all(), "the outline has the colour asked for"
    assert drawn[0, 0].sum() < frame[0, 0].sum() and (drawn[~mask] == drawn[0, 0]).all(), "the outside is dim"
    assert (overlay(frame, mask & False, (1, 2, 3)) == drawn[0, 0]).all()
    assert (decode(rle(mask), *mask.shape, "here") == mask).all() and not decode(None, 4, 5, "here").any()


def test_thinking_is_split_off() -> None:
    assert split_turn("<think> a\nb </think><answer>x</answer>") == split_turn("<think>a\nb</think> <answer>x</answer>")
    assert split_turn("<think>never closed").rest == "<think>never closed"


def test_empty_run_says_so(tmp_path: Path) -> None:
    page = build_report(ReportInput("empty", {}, []), tmp_path / "r.html").read_text()
    for words in ("No stage was evaluated", "No RL steps were recorded", "No step times", "No clip can be drawn"):
        assert words in page


def test_unreadable_frame_is_named_and_leaves_no_page(tmp_path: Path) -> None:
    run = run_input(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"\d{5}\.jpg: frame cannot be read"):
        build_report(run, tmp_path / "out" / "r.html")
    assert not (tmp_path / "out").exists()
