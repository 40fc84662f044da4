"""Traces: strict protocol, indices inside, and nothing said that the shown frames do not tell."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_construction.cot import InitialFrames, SceneObject, TraceSettings, plan_traces, write_training_files
from data_construction.cot.build import read_names, scene_objects, trace_sample
from data_construction.readers import VTSCoTRecord, open_dataset, read_vts_cot
from rollout.errors import DataError, RecipeError
from rollout.frames import evenly_spaced
from rollout.protocol import parse_turn
from rollout.types import Action, Clip, Expression, Masklets, Sample

INITIAL = (10, 5)


@pytest.fixture(scope="module")
def records(synthetic: Path) -> list[tuple[VTSCoTRecord, Masklets]]:
    data = open_dataset("revos", synthetic, "train")
    truths = [s.masklets for s in data.samples()]
    traces = read_vts_cot(synthetic / "vts_cot_train.json")
    return [(r, m) for r, m in zip(traces, truths, strict=True) if m is not None]


def shown_before(record: VTSCoTRecord, turn: int) -> list[int]:
    """Frames that the environment has shown when ``turn`` is written."""
    total = len(record.frames)
    seen = {*evenly_spaced(0, total - 1, INITIAL[0], spare=1), *record.sample_frame_indice}
    for g in record.cot_trace[:turn]:
        seen |= {*evenly_spaced(g.start, g.end, 5), g.keyframe}
    return sorted(seen)


def is_guess(reply: str) -> bool:
    return " may be from " in reply


def test_replies_follow_the_protocol_and_match_cot_trace(records: list[tuple[VTSCoTRecord, Masklets]]) -> None:
    for record, _ in records:
        for n, (reply, chosen) in enumerate(zip(record.replies, record.cot_trace, strict=True)):
            parsed = parse_turn(reply)
            assert parsed.problem is None, (reply, parsed.problem)
            assert parsed.action is (Action.ANSWER if n == len(record.replies) - 1 else Action.SELECT)
            assert parsed.grounding == chosen
            body = re.search(r"<VTG>(.*)</VTG>", reply)
            assert body is not None and set(json.loads(body[1])) == {"start", "end", "keyframe"}
            assert 0 <= chosen.start < chosen.end < len(record.frames) and 0 <= chosen.keyframe < len(record.frames)
            assert re.search(r"Step 1: .* Step 2: .* Step 3: .* Action: (look again|confirmed)</think>", reply)
        assert "confirmed" in record.replies[-1] and not any("confirmed" in r for r in record.replies[:-1])


def test_images_in_the_human_text_are_those_of_the_environment(records: list[tuple[VTSCoTRecord, Masklets]]) -> None:
    for record, _ in records:
        humans = [v for who, v in record.conversations if who == "human"]
        assert [who for who, _ in record.conversations] == ["system", *["human", "gpt"] * len(record.replies)]
        assert humans[0].count("<image>") == sum(INITIAL) and all(record.exp in h for h in humans)
        for human, g in zip(humans[1:], record.selections, strict=True):
            assert human.count("<image>") == len(evenly_spaced(g.start, g.end, 5)) + 1
            assert f"key {g.keyframe}" in human


def test_what_a_turn_says_is_what_its_frames_show(records: list[tuple[VTSCoTRecord, Masklets]]) -> None:
    wide = narrow = 0
    for record, truth in records:
        areas = truth.areas()
        for n, (reply, g) in enumerate(zip(record.replies, record.cot_trace, strict=True)):
            seen = shown_before(record, n)
            visible = [t for t in seen if areas[t]]
            assert g.keyframe in seen
            if is_guess(reply):
                assert areas[g.keyframe] < 0.25 * areas[visible].max()
                continue
            if not record.anno_id:
                assert "nothing matches" in reply and (g.start, g.end) == (0, len(record.frames) - 1)
                continue
            assert areas[g.keyframe] >= 0.95 * areas[visible].max()
            if m := re.search(r"seen from (\d+) to (\d+)", reply):
                wide += 1
                assert (int(m[1]), int(m[2])) == (visible[0], visible[-1])
            m = re.search(r" (?:is|are) clear from (\d+) to (\d+)", reply)
            if m is not None:
                narrow += 1
                within = [t for t in seen if int(m[1]) <= t <= int(m[2])]
                assert min(areas[within]) >= 0.5 * areas[g.keyframe] and int(m[1]) <= g.keyframe <= int(m[2])
            clear = re.search(r"clear at (\d+)", reply)
            assert clear is not None and int(clear[1]) == g.keyframe
    assert wide > 100 and narrow > 100


def test_turns_one_to_three_and_recoveries(records: list[tuple[VTSCoTRecord, Masklets]]) -> None:
    lengths = {len(r.replies) for r, _ in records}
    assert lengths == {1, 2, 3}
    recoveries = [r for r, _ in records if is_guess(r.replies[0])]
    assert 0.01 < len(recoveries) / len(records) < 0.15
    for r in recoveries:
        assert not any(is_guess(reply) for reply in r.replies[1:])
        assert f"at {r.cot_trace[0].keyframe}. " in r.replies[1]


def moving(anno_id: str, name: str, areas: list[int]) -> SceneObject:
    x = np.arange(len(areas), dtype=float) * 3
    centres = np.stack([x, np.full(len(areas), 20.0)], 1)
    centres[np.array(areas) == 0] = np.nan
    return SceneObject(anno_id, name, np.array(areas), centres)


def sample_of(total: int, anno_ids: tuple[str, ...] = ("1",), kind: str = "attribute") -> Sample:
    clip = Clip("c", tuple(f"{t:05d}.jpg" for t in range(total)), 96, 96)
    return Sample(clip, Expression("0", "the red circle", anno_ids, 0, kind))


RED = moving("1", "red circle", [0, 0, 0, 100, 300, 800, 800, 800, 300, 100, 0, 0, 0, 0, 0, 0])
BLUE = moving("2", "blue square", [0] * 11 + [500] * 5)


def plan(sample: Sample, objects: list[SceneObject], turns: int = 2, **settings: bool) -> VTSCoTRecord:
    initial = InitialFrames.evenly(sample.clip.num_frames, 8, 3)
    return plan_traces(sample, objects, initial, 5, np.random.default_rng(0), turns=turns, recover=0.0, **settings)


def test_a_plan_without_description_says_only_where_the_target_is_clear() -> None:
    told, untold = plan(sample_of(16), [RED, BLUE]), plan(sample_of(16), [RED, BLUE], describe_target=False)
    assert told.cot_trace == untold.cot_trace
    for described, without in zip(told.replies, untold.replies, strict=True):
        assert "it is large, moving right, clear at 6." in described
        assert without == described.replace("large, moving right, ", "")


def test_only_named_kinds_call_their_target_by_name(synthetic: Path) -> None:
    data = open_dataset("revos", synthetic, "train")
    names = read_names(data.root)
    kinds: set[str] = set()
    for sample in data.samples():
        objects = scene_objects(data, sample.clip.name, names[sample.clip.name])
        named, other = (trace_sample(sample, objects, TraceSettings(named_kinds=k), 0) for k in ((), ("attribute",)))
        called = [r.partition("Step 3:")[0] for r in other.replies]
        if sample.expression.kind in ("attribute", "no_target"):
            assert other == named
        else:
            assert not any(name in text for text in called for name in names[sample.clip.name].values())
            assert any("target is " in text or "target are " in text for text in called) or other == named
            assert other.cot_trace == named.cot_trace
            kinds.add(sample.expression.kind)
    assert len(kinds) >= 3


def test_a_plan_by_hand() -> None:
    record = plan(sample_of(16), [RED, BLUE], turns=3)
    first, second, third = record.replies
    # Shown first: 0 2 4 6 8 10 12 15 and 0 7 15, so the circle is seen from 4 to 8, best at 6.
    assert "red circle is seen from 4 to 8." in first and "it is large, moving right, clear at 6." in first
    assert '{"start": 4, "end": 8, "keyframe": 6}' in first and "look again" in first
    # Then 4 5 6 7 8 (of 4..8): from here 5 to 7 are at least half as large as the best.
    assert "red circle is clear from 5 to 7." in second
    assert "red circle is clear from 5 to 7." in third and third.endswith("</answer>") and "confirmed" in third


def test_frames_not_shown_yet_do_not_change_what_is_said() -> None:
    initial = InitialFrames.evenly(16, 8, 3)
    shown = {*initial.temporal, *initial.spatial}
    areas = [int(a) if t in shown else int(a) + 999 for t, a in enumerate(RED.areas)]
    changed = moving("1", "red circle", areas)
    honest, other = plan(sample_of(16), [RED]), plan(sample_of(16), [changed])
    assert honest.replies[0] == other.replies[0]
    assert honest.replies[1] != other.replies[1]


def test_a_target_that_no_shown_frame_has_is_looked_for_between_them() -> None:
    hidden = moving("1", "red circle", [0] * 5 + [400] + [0] * 10)
    record = plan(sample_of(16), [hidden], turns=2)
    g = record.cot_trace[0]
    assert "nothing is seen yet" in record.replies[0] and g.start < g.end
    assert g == plan(sample_of(16), [moving("1", "red circle", [0] * 16)]).cot_trace[0]


def test_several_targets_and_none() -> None:
    both = plan(sample_of(16, ("1", "2"), "count"), [RED, BLUE], turns=1)
    assert "red circle and blue square are seen from 4 to 15." in both.replies[0] and "query about count" in str(both)
    none = plan(sample_of(16, (), "no_target"), [RED, BLUE])
    assert all("nothing matches" in r and '{"start": 0, "end": 15' in r for r in none.replies)
    assert "no_target" not in " ".join(none.replies)


def test_a_target_seen_once_still_gets_an_interval() -> None:
    last = moving("1", "red circle", [0] * 15 + [400])
    assert plan(sample_of(16), [last], turns=1).cot_trace[0].start == 14
    still_only = moving("1", "red circle", [400] + [0] * 15)
    reply = plan(sample_of(16), [still_only], turns=1).replies[0]
    assert '{"start": 0, "end": 1, "keyframe": 0}' in reply and "motion unclear" in reply


def test_scene_lists_what_is_seen_so_far() -> None:
    reply = plan(sample_of(16), [RED, BLUE], turns=1, scene=True).replies[0]
    assert "Step 1: red circle large moving right 4 to 8, blue square medium moving right 12 to 15. red" in reply


def test_noise_names_a_wrong_object_at_the_stated_share(synthetic: Path, tmp_path: Path) -> None:
    data = open_dataset("revos", synthetic, "train")
    settings = TraceSettings(noise=0.5, noise_kinds=("attribute",), turns=(1.0,))
    write_training_files(data, tmp_path, settings, seed=3)
    records = read_vts_cot(tmp_path / "vts_cot_train.json")
    attribute = [r for r in records if r.kind == "attribute"]
    assert 0.3 < np.mean([r.noisy for r in attribute]) < 0.7
    assert not any(r.noisy for r in records if r.kind != "attribute")
    for r in attribute:
        assert (r.exp.removeprefix("the ") in r.replies[0]) != r.noisy
    truths = [s.expression.anno_ids for s in data.samples()]
    assert [r.anno_id for r in records] == truths


def test_traces_depend_on_the_seed_and_nothing_else(synthetic: Path, tmp_path: Path) -> None:
    data = open_dataset("revos", synthetic, "valid")
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        write_training_files(data, tmp_path / name, TraceSettings(), seed)
        texts.append((tmp_path / name / "vts_cot_valid.json").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_without_names_an_object_is_called_target(synthetic: Path) -> None:
    data = open_dataset("revos", synthetic, "train")
    clip = data.clips()[0]
    names = {o.name for o in scene_objects(data, clip, read_names(synthetic)[clip])}
    assert names and all(len(n.split()) == 2 for n in names)
    assert {o.name for o in scene_objects(data, clip, {})} == {"target"}


def test_wrong_settings_and_missing_objects_are_named() -> None:
    with pytest.raises(RecipeError, match="turns"):
        TraceSettings(turns=(0.0,))
    with pytest.raises(RecipeError, match=r"noise = 1\.5"):
        replace(TraceSettings(), noise=1.5)
    with pytest.raises(DataError, match=r"clip c.*annotation 1"):
        plan(sample_of(16), [BLUE])
