"""Every check lets a sound trace pass and names the one fault it is for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_construction.traces import Sources, Trace
from data_construction.verify import VerifySettings, check_names, run_checks
from data_construction.verify.examine import Examiner
from data_construction.verify.wording import content_words, mentions
from rollout.errors import RecipeError
from tests.data_construction.trace_files import Line, boxed, planned

Break = Callable[[Line], object]


@pytest.fixture(scope="module")
def masks(synthetic: Path) -> list[Line]:
    return planned(synthetic)


@pytest.fixture(scope="module")
def boxes(synthetic: Path) -> list[Line]:
    return boxed(synthetic)


@pytest.fixture(scope="module")
def failures(synthetic: Path) -> Callable[..., dict[str, str]]:
    """Check and reason of everything that a line fails."""

    def look(line: Line, **settings: Any) -> dict[str, str]:
        examiner = Examiner(Sources.parse([str(synthetic)]), VerifySettings(**settings), None)
        return {f.check: f.reason for f in run_checks(examiner.case(Trace.from_dict(line, "line")))}

    return look


def test_sound_traces_pass_every_check(masks: list[Line], boxes: list[Line], failures: Any) -> None:
    assert len(masks) > 30 and len(boxes) > 30
    for line in masks + boxes:
        assert failures(line) == {}, line["id"]


def replies(line: Line) -> list[dict[str, str]]:
    return [c for c in line["record"]["conversations"] if c["from"] == "gpt"]


def edit(old: str, new: str, turn: int = -1) -> Break:
    """In one reply."""

    def change(line: Line) -> None:
        reply = replies(line)[turn]
        assert old in reply["value"]
        reply["value"] = reply["value"].replace(old, new)

    return change


def say(text: str) -> Break:
    """At the end of the first reply's step 1."""
    return edit("Step 2:", f"{text} Step 2:", 0)


def answer(start: int, end: int, keyframe: int) -> Break:
    def change(line: Line) -> None:
        reply = replies(line)[-1]
        vtg = json.dumps({"start": start, "end": end, "keyframe": keyframe})
        reply["value"] = re.sub(r"<VTG>.*</VTG>", f"<VTG>{vtg}</VTG>", reply["value"])
        line["record"]["cot_trace"][-1] = {"start_frame": start, "end_frame": end, "key_frame": keyframe}

    return change


def put(key: str, value: Any, inside: str = "") -> Break:
    return lambda line: (line[inside] if inside else line).__setitem__(key, value)


BROKEN: dict[str, tuple[Break, str, str]] = {
    "answer tag": (edit("</answer>", ""), "protocol", "expected one <select>"),
    "no think": (edit("<think>", ""), "protocol", "no <think>"),
    "select last": (lambda d: [edit("answer>", "select>")(d)], "protocol", "needs <answer>"),
    "roles": (lambda d: d["record"]["conversations"].append({"from": "gpt", "value": "x"}), "protocol", "roles are"),
    "cot_trace": (lambda d: d["record"]["cot_trace"][0].update(start_frame=2), "protocol", "cot_trace"),
    "image added": (lambda d: d["record"]["conversations"][1].update(value="<image> q"), "protocol", "fewer than"),
    "image in reply": (edit("Step 1:", "Step 1: <image>"), "protocol", "outside the human messages"),
    "beyond the end": (answer(0, 99, 3), "indices", "outside 0.."),
    "negative": (answer(-1, 5, 3), "indices", "outside 0.."),
    "inverted": (answer(9, 2, 3), "indices", "before its start"),
    "frames listed": (lambda d: d["record"]["frames"].pop(), "indices", "the record lists"),
    "no [SEG]": (edit("[SEG]", ""), "seg_token", "0 [SEG]"),
    "two [SEG]": (edit("Step 1:", "Step 1: [SEG]"), "seg_token", "2 [SEG]"),
    "no step": (edit("Step 3:", "Lastly"), "steps", "Step 3"),
    "order": (edit("Step 3:", "Step 9:"), "steps", "Step 3"),
    "leak": (say("It sits in the Red Box there."), "overlay_leak", "'Red Box'"),
    "leak 2": (say("The bounding box tells it."), "overlay_leak", "'bounding box'"),
    "leak 3": (say("A highlighted thing moves."), "overlay_leak", "'highlighted'"),
    "hint": (say("As instructed, this is so."), "overlay_leak", "'As instructed'"),
    "unshown": (say("In frame 999 more happens."), "unshown_frames", "the clip ends at"),
    "short": (edit("Step 1", "Step 1", 0), "length", "words of thinking"),
    "refusal": (say("I'm sorry for that."), "refusal", "I'm sorry"),
    "other text": (put("exp", "another thing"), "agreement", "the data set says"),
    "other ids": (put("anno_id", [123456]), "agreement", "annotation ids"),
    "existence": (lambda d: d["rl_annotation"]["mask_existence"].__setitem__(0, 7), "agreement", "mask_existence"),
    "not asked": (lambda d: [c.update(value=c["value"].replace(d["exp"], "it")) for c in d["record"]["conversations"]
                             if c["from"] == "human"], "agreement", "no human message"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_named_by_its_check(name: str, masks: list[Line], failures: Any) -> None:
    change, check, reason = BROKEN[name]
    line = copy.deepcopy(next(d for d in masks if len(replies(d)) == 2 and d["anno_id"]))
    change(line)
    found = failures(line, min_words=500, max_words=900) if check == "length" else failures(line)
    assert check in found and reason in found[check], found


def absent_and_clear(line: Line) -> tuple[int, int]:
    """A shown frame without the target, and the last keyframe."""
    there = line["rl_annotation"]["mask_existence"]
    shown = line["record"]["sample_frame_indice"]
    return next(t for t in shown if not there[t]), line["record"]["cot_trace"][-1]["key_frame"]


@pytest.fixture(scope="module")
def hiding(masks: list[Line]) -> Line:
    """A trace whose sharp frames miss the target once, with several words to talk about."""
    fits = [d for d in masks if d["anno_id"] and len(replies(d)) == 2 and "the " in d["exp"]]
    return next(d for d in fits if not all(d["rl_annotation"]["mask_existence"][t] for t in spatial(d)))


def spatial(line: Line) -> list[int]:
    return line["record"]["sample_frame_indice"]  # type: ignore[no-any-return]


def test_claims_about_frames_are_held_against_the_masks(hiding: Line, failures: Any) -> None:
    absent, clear = absent_and_clear(hiding)
    for words, check in (
        (f"The target is clearly visible in frame {absent}.", True),
        (f"The target is not visible in frame {absent}.", False),
        (f"The target may be visible in frame {absent}.", False),
        (f"A cloud is visible in frame {absent}.", False),
        (f"The target appears in frames {clear} and {absent}.", True),
    ):
        line = copy.deepcopy(hiding)
        say(words)(line)
        assert ("visibility_claims" in failures(line)) == check, words


def test_an_answer_elsewhere_is_no_answer(hiding: Line, failures: Any) -> None:
    absent, _ = absent_and_clear(hiding)
    line = copy.deepcopy(hiding)
    answer(absent, absent, absent)(line)
    found = failures(line)
    assert f"no target in keyframe {absent}" in found["keyframe_visible"] and "0 of the 1 frames" in found["interval"]
    line = copy.deepcopy(hiding)
    first, there = line["record"]["cot_trace"][0], copy.deepcopy(line["record"]["cot_trace"][0])
    first["key_frame"] = absent  # a first choice may be bad, if the answer is good
    old, new = (json.dumps({"start": g["start_frame"], "end": g["end_frame"], "keyframe": g["key_frame"]})
                for g in (there, first))  # fmt: skip
    edit(old, new, 0)(line)
    assert "keyframe_visible" not in failures(line)


def test_things_that_are_not_in_the_clip(masks: list[Line], failures: Any, synthetic: Path) -> None:
    line = copy.deepcopy(next(d for d in masks if d["anno_id"]))
    objects = json.loads((synthetic / "synthetic_objects.json").read_text()).values()
    own = {f"{o['color']} {o['shape']}" for o in objects if o["video"] == line["clip"]}
    foreign = next(f"{o['color']} {o['shape']}" for o in objects if f"{o['color']} {o['shape']}" not in own)
    say(f"A {foreign} drifts by.")(line)
    assert f"names a {foreign}" in failures(line)["vocabulary"]
    assert "vocabulary" not in failures(line, vocabulary="off")
    other = copy.deepcopy(next(d for d in masks if d["anno_id"]))
    say("The magenta sky is calm.")(other)
    assert "vocabulary" not in failures(other)
    assert "'magenta'" in failures(other, vocabulary="strict")["vocabulary"]


BROKEN_BOXES: dict[str, tuple[Break, str, str]] = {
    "not JSON": (edit('"bbox_2d_list"', "bbox_2d_list"), "protocol", "not a JSON object"),
    "text behind": (edit("</answer>", "</answer> so"), "protocol", "nothing else"),
    "record differs": (lambda d: d["record"]["bbox_2d_list"][0].__setitem__(0, -5), "protocol", "bbox_2d_list"),
    "an image more": (lambda d: d["record"]["frames"].append(0), "protocol", "<image>"),
    "outside": (lambda d: d["record"]["frames"].__setitem__(0, 999), "indices", "outside 0.."),
    "keyframe": (put("keyframe", 998, "record"), "indices", "not among the frames shown"),
    "[SEG]": (edit("<think>", "<think>[SEG] "), "seg_token", "1 [SEG], wants 0"),
    "leak": (edit("the best view", "marked with a red rectangle"), "overlay_leak", "marked with"),
    "time": (edit("the best view", "and at 777 s"), "unshown_frames", "777"),
}


@pytest.mark.parametrize("name", BROKEN_BOXES)
def test_each_fault_of_a_box_trace_is_named(name: str, boxes: list[Line], failures: Any) -> None:
    change, check, reason = BROKEN_BOXES[name]
    line = copy.deepcopy(boxes[0])
    change(line)
    found = failures(line)
    assert check in found and reason in found[check], found


def test_boxes_are_held_against_the_masks(boxes: list[Line], failures: Any) -> None:
    def with_boxes(given: list[list[int]]) -> dict[str, str]:
        line = copy.deepcopy(boxes[0])
        old = json.dumps(line["record"]["bbox_2d_list"])
        edit(old, json.dumps(given))(line)
        line["record"]["bbox_2d_list"] = given
        return failures(line)  # type: ignore[no-any-return]

    truth = boxes[0]["record"]["bbox_2d_list"]
    assert with_boxes(truth) == {}
    assert with_boxes([[x1 + 4, y1, x2 + 4, y2] for x1, y1, x2, y2 in truth]) == {}
    assert "IoU 0." in with_boxes([[x1 + 300, y1, x2 + 300, y2] for x1, y1, x2, y2 in truth])["boxes"]
    assert "boxes for" in with_boxes([*truth, truth[0]])["boxes"]
    assert "0 boxes for" in with_boxes([])["boxes"]
    assert "is inverted" in with_boxes([[x2, y2, x1, y1] for x1, y1, x2, y2 in truth])["protocol"]


def test_frames_that_a_sentence_names() -> None:
    def numbers(text: str, seconds: bool = False) -> list[tuple[int, ...]]:
        return [m.numbers for m in mentions(text, seconds)]

    assert numbers("Seen in frames 3, 5 and 9. Also from 4 to 12.") == [(3, 5, 9), (4, 12)]
    assert numbers("Frame 7 is best; clear at 8.") == [(7,), (8,)]
    assert numbers("frames 4-9 and frame 11") == [(4, 9, 11)]
    assert numbers("Step 1: 2 dogs at 3 o'clock, 4 people, 50% covered, from 2 dogs to 1.") == []
    assert numbers("visible at 4 s, then 6 to 9 seconds") == []
    assert numbers("visible at 4 s, then 6 to 9 seconds", seconds=True) == [(4, 6, 9)]
    assert [m.action for m in mentions("Step 1: frame 3. Action: look at frames 5 to 6.")] == [False, True]
    assert content_words("the dog that is left of the man") == {"dog", "left", "man"}


def test_checks_can_be_left_out_and_unknown_ones_are_refused(masks: list[Line], failures: Any) -> None:
    line = copy.deepcopy(masks[0])
    say("A highlighted thing moves.")(line)
    assert failures(line, skip=("overlay_leak",)) == {}
    with pytest.raises(RecipeError, match="no check 'nonsense'"):
        failures(line, skip=("nonsense",))
    assert len(check_names()) >= 12 and all(check_names().values())
    with pytest.raises(RecipeError, match="vocabulary"):
        VerifySettings(vocabulary="some")


LEAKS = (
    "The rectangle encloses the dog.|The dog is framed in red.|It stands in the red frame.|There are red lines there."
    "|A red square sits on the dog.|The box around it tells.|The box encloses it.|The marked person walks."
    "|There are red marks on it.|It is outlined in red.|A rectangle surrounds it.|The mask covers all of it."
    "|Circled by thin red lines.|It is inside the rectangle."
)
HARMLESS = (
    "A man wears a mask.|The man behind the mask laughs.|The cat sits in the box.|A box stands on the table."
    "|The boxes are stacked around it.|A red car stops.|He stands in the frame of the door.|Trees line the road."
)


@pytest.mark.parametrize("text", LEAKS.split("|"))
def test_what_was_drawn_is_found_in_any_words(text: str, masks: list[Line], failures: Any) -> None:
    line = copy.deepcopy(next(d for d in masks if d["anno_id"] and "square" not in json.dumps(d["record"])))
    say(text)(line)
    assert "overlay_leak" in failures(line), text


@pytest.mark.parametrize("text", HARMLESS.split("|"))
def test_things_of_the_world_are_no_leak(text: str, masks: list[Line], failures: Any) -> None:
    line = copy.deepcopy(next(d for d in masks if d["anno_id"]))
    say(text)(line)
    assert "overlay_leak" not in failures(line), text


def test_times_and_boxes_are_read_as_the_trace_says(boxes: list[Line], failures: Any) -> None:
    line = copy.deepcopy(boxes[0])
    line["shown"] = {"side": 560, "fps": 1.0}
    assert failures(line) == failures(line, side=560, fps=1.0) == {}
    with pytest.raises(RecipeError, match="was made with side 560; leave the option out"):
        failures(line, side=280)
    with pytest.raises(RecipeError, match="was made with fps 1"):
        failures(line, fps=2.0)
    line["shown"] = {"side": 280, "fps": 1.0}
    assert "IoU" in failures(line)["boxes"]
    line["shown"] = {"side": 560, "fps": 25.0}
    assert "several frames are shown at the same second" in failures(line)["indices"]
    assert "IoU" in failures(boxes[0], side=280)["boxes"]  # It does not say, so the option does.
