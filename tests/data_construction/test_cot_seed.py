"""Veason-R1's seed traces: keyframe, frames, boxes, overlay, steps, templates."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_construction.cot import wording
from data_construction.cot.seed import SeedMethod, SeedSettings
from data_construction.generate import SetAside, Source, run_job
from data_construction.readers import open_dataset
from rollout.box_protocol import parse_box_turn
from rollout.errors import DataError, RecipeError
from rollout.messages import TextPart
from tests.data_construction.cot_jobs import lines, seed_job
from tests.data_construction.fault_server import FaultServer, running

SIDE = 56


@pytest.fixture(scope="module")
def made(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], FaultServer]:
    out = tmp_path_factory.mktemp("seed")
    with running(FaultServer(keep=True)) as server:
        summary, _ = run_job(seed_job(synthetic, out, server.url, {"per_clip": 3, "limit": 48}))
    assert summary.complete
    return lines(out / "traces.jsonl"), server


def red(part: dict[str, Any]) -> bool:
    """Whether a sent image has pixels as red as the overlay and nothing in these clips is."""
    raw = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape == (SIDE, SIDE, 3)
    return bool(((image[..., 2] > 225) & (image[..., 0] < 60) & (image[..., 1] < 60)).any())


def test_answers_are_ground_truth_under_the_training_protocol(
    made: tuple[list[dict[str, Any]], FaultServer], synthetic: Path
) -> None:
    data = open_dataset("revos", synthetic, "train")
    for trace in made[0]:
        truth, record = data.get(trace["clip"], trace["expression_id"]).masklets, trace["record"]
        assert truth is not None
        areas, frames, keyframe = truth.areas(), record["frames"], record["keyframe"]
        assert areas[keyframe] > 0 and areas[keyframe] >= sorted(areas)[-5]
        step = -(-len(areas) // 3)  # n = 4
        assert frames == [t for t in range(len(areas)) if t % step == keyframe % step] and len(frames) <= 4
        who = [c["from"] for c in record["conversations"]]
        assert who == ["system", "human", "gpt"]
        _, human, reply = (c["value"] for c in record["conversations"])
        assert human.count("<image>") == len(frames) and all(f"{t}s: <image>" in human for t in frames)
        assert trace["exp"] in human
        parsed = parse_box_turn(reply)
        assert parsed.problem is None and parsed.answer is not None
        assert parsed.answer.keyframe_timestamp == keyframe
        scale, wanted = SIDE / truth.width, []
        for o in range(len(truth.rles)):
            rows, columns = np.nonzero(truth.object_mask(o, keyframe))
            if len(rows):
                corners = (columns.min(), rows.min(), columns.max(), rows.max())
                wanted.append([int(c * scale + 0.5) for c in corners])
        assert record["bbox_2d_list"] == [list(map(int, b)) for b in parsed.answer.boxes] == wanted


def test_the_model_sees_the_frames_with_their_times_and_the_target_in_a_red_box(
    made: tuple[list[dict[str, Any]], FaultServer], synthetic: Path
) -> None:
    data = open_dataset("revos", synthetic, "train")
    traces, server = made
    sent = {m["messages"][1]["content"][-1]["text"].split("\n")[0]: m for m in server.requests}
    seen = Counter[bool]()
    for trace in traces[:16]:
        texts = [t for t in traces if t["exp"] == trace["exp"]]
        if len(texts) > 1:
            continue  # The same words in several clips: which request was whose?
        content = sent[f"Query: {trace['exp']}"]["messages"][1]["content"]
        truth = data.get(trace["clip"], trace["expression_id"]).masklets
        assert truth is not None
        frames, areas = trace["record"]["frames"], truth.areas()
        assert [p["text"] for p in content[:-1:2]] == [f"Frame at {t} s:" for t in frames]
        for frame, part in zip(frames, content[1:-1:2], strict=True):
            assert red(part) or areas[frame] < 400
            seen[red(part)] += 1
    assert seen[True] >= 5


def test_thinking_has_three_steps_in_one_of_several_forms(made: tuple[list[dict[str, Any]], FaultServer]) -> None:
    thoughts = [parse_box_turn(t["record"]["conversations"][-1]["value"]).think for t in made[0]]
    for think in thoughts:
        assert think is not None
        places = [think.index(f"The {name} is seen") for name in ("summary", "keyframe", "target")]
        assert places == sorted(places)
    openings = {think[:10] for think in thoughts if think}
    assert len(openings) == len(wording.SEED_TEMPLATES) == 3
    styles = Counter(m["messages"][1]["content"][-1]["text"].split("each: ")[1][:60] for m in made[1].requests)
    assert len(styles) == 3


def test_at_most_so_many_of_a_video_and_none_without_a_target(
    made: tuple[list[dict[str, Any]], FaultServer], synthetic: Path
) -> None:
    clips = Counter(t["clip"] for t in made[0])
    assert max(clips.values()) == 3 and len(clips) >= 16
    assert all(t["anno_id"] for t in made[0])
    data = open_dataset("revos", synthetic, "train")
    chosen = {(t["clip"], t["expression_id"]) for t in made[0]}
    first_three = {(c, e.id) for c in clips for e in [e for e in data.expressions(c) if e.anno_ids][:3]}
    assert chosen != first_three  # Drawn, not just the first ones.


def test_the_same_seed_gives_the_same_traces(synthetic: Path, tmp_path: Path) -> None:
    with running(FaultServer()) as server:
        for name in ("a", "b"):
            run_job(seed_job(synthetic, tmp_path / name, server.url, {"limit": 5}))
    assert (tmp_path / "a" / "traces.jsonl").read_bytes() == (tmp_path / "b" / "traces.jsonl").read_bytes()


@pytest.mark.parametrize(("stanza", "option"), [(4.0, None), (None, 4.0), (25.0, 4.0)])
def test_a_clip_of_more_frames_a_second_is_shown_at_one(
    stanza: float | None, option: float | None, synthetic: Path
) -> None:
    data = open_dataset("revos", synthetic, "train")
    data.files = replace(data.files, fps=stanza)
    method = SeedMethod(Source(data, wanted=lambda e: bool(e.anno_ids), limit=30), SeedSettings(4, SIDE, option))
    planned = 0
    for item in method.source.items(lambda _: False):
        if isinstance(item, SetAside) or item is None:
            continue
        truth = item.sample.masklets
        assert truth is not None
        there = truth.areas()[::4]
        if not there.any():
            with pytest.raises(DataError, match="one frame a second"):
                method.plan(item)
            continue
        plan, planned = method.plan(item), planned + 1
        assert all(f % 4 == 0 for f in plan.frames) and plan.times == tuple(f // 4 for f in plan.frames)
        assert plan.keyframe_time == plan.keyframe // 4 and truth.areas()[plan.keyframe] > 0
        assert np.diff(plan.times).max(initial=1) == np.diff(plan.times).min(initial=99) or len(plan.times) < 3
        said = "".join(p.text for m in plan.messages for p in m.parts if isinstance(p, TextPart))
        assert all(f"{t}s: " in said for t in plan.times)
    assert planned >= 20


def test_each_line_says_how_its_frames_were_shown(made: tuple[list[dict[str, Any]], FaultServer]) -> None:
    assert all(t["shown"] == {"side": SIDE, "fps": 1.0} for t in made[0])


def test_a_square_is_whole_cells_of_one_family() -> None:
    assert [SeedSettings(side=side).cell for side in (560, 160, 224)] == [28, 32, 28]
    with pytest.raises(RecipeError, match=r"side = 100: .* 28 for a Qwen2\.5-VL, of 32 for a Qwen3-VL or Qwen3\.5"):
        SeedSettings(side=100)
