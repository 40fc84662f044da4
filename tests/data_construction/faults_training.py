"""How dialogues, training files and generic folders are broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.data_construction.faults import (
    Broken,
    Fault,
    Found,
    cut,
    frame_faults,
    garbage,
    json_fault,
    missing,
    picture,
    png_faults,
    rle_faults,
)
from tests.data_construction.faults_images import without_size, written
from tests.data_construction.faults_video import cases, first_seen, frames_of


def chatunivi() -> list[Broken]:
    file, clip = "video_chat.json", "v_00000.mp4"
    video, where = f"Activity_Videos/{clip}", (file, clip, "item 0")

    def first(how: Callable[[Any], object], *found: str) -> Fault:
        return json_fault(file, lambda m: how(m[0]), "malformed_record", *where, *found)

    return cases(
        "chatunivi", "train", clip,
        {
            "video_missing": missing(video, "missing_frame", video, clip),
            "video_cut": cut(video, "malformed_clip", video, clip),
            "no_video": garbage(video, "malformed_clip", video, clip),
            "annotations_cut": cut(file, "", file, "cut short"),
            "annotations_missing": missing(file, "", file, "missing"),
            "no_list": written(file, b"{}", "", file, "list"),
            "no_conversations": first(lambda m: m.pop("conversations"), "conversations"),
            "no_question": first(lambda m: m["conversations"].pop(0), "human"),
            "no_answer": first(lambda m: m["conversations"].pop(), "gpt"),
            "blank_question": first(lambda m: m["conversations"][0].update(value="<video>\n"), "question"),
            "id_twice": json_fault(
                file, lambda m: m[1].update(id=m[0]["id"]), "malformed_record", file, clip, "item 1", "twice"
            ),
        },
    )  # fmt: skip


def timelens() -> list[Broken]:
    file, clip = "timelens-100k.jsonl", "v_00000.mp4"
    video, where = f"videos/{clip}", (file, clip, "item 0")

    def first(how: Callable[[Any], object], *found: str) -> Fault:
        def fault(root: Path) -> Found:
            lines = (root / file).read_text().splitlines()
            item = json.loads(lines[0])
            how(item)
            (root / file).write_text("\n".join([json.dumps(item), *lines[1:]]))
            return found

        return fault

    def event(*found: str, **values: Any) -> Fault:
        return first(lambda m: m["events"][0].update(values), "malformed_record", *where, *found)

    return cases(
        "timelens", "train", clip,
        {
            "video_missing": missing(video, "missing_frame", video, clip),
            "video_cut": cut(video, "malformed_clip", video, clip),
            "no_video": garbage(video, "malformed_clip", video, clip),
            "line_cut": cut(file, "", file, "line"),
            "annotations_missing": missing(file, "", file),
            "event_ends_before_it_starts": event("event 0", span=[[1.0, 0.5]]),
            "event_outside": event("outside", span=[[100.0, 200.0]]),
            "event_before_the_video": event("event 0", span=[[-5.0, -1.0]]),
            "times_are_words": event("ValueError", span=[["early", "late"]]),
            "blank_query": event("event 0", query=" . "),
            "no_span": first(lambda m: m["events"][0].pop("span"), "malformed_record", *where, "span"),
            "no_events": first(lambda m: m.update(events=[]), "no_expressions", file, clip),
        },
    )  # fmt: skip


def training(dataset: str, file: str, special: Callable[[Callable[..., Fault]], dict[str, Fault]]) -> list[Broken]:
    """What both training files share, on their ReVOS part."""
    clip, masks = "revos_00000", "video_datas/revos/mask_dict.json"

    def first(how: Callable[[Any], object], *found: str) -> Fault:
        def change(m: Any) -> None:
            how(m[0][0] if isinstance(m[0], list) else m[0])

        return json_fault(file, change, "malformed_record", file, clip, "record 0", *found)

    frames = frames_of(dataset, "revos")
    return cases(
        dataset, "revos", clip,
        without_size(frame_faults(f"video_datas/revos/{clip}/00003.jpg", clip, "00003")),
        rle_faults(masks, str(first_target(dataset)), clip, frames),
        {
            "annotations_cut": cut(file, "", file, "cut short"),
            "no_list": written(file, b"{}", "", file, "list"),
            "masks_missing": missing(masks, "", masks, "missing"),
            "no_frames_key": first(lambda r: r.pop("frames"), "frames"),
            "unknown_object": json_fault(
                file, lambda m: (m[0][0] if isinstance(m[0], list) else m[0]).update(anno_id=[77]),
                "no_masks", masks, clip, "annotation 77",
            ),
        },
        special(first),
    )  # fmt: skip


def first_target(dataset: str) -> int:
    from data_construction.layouts import draw_clips

    return draw_clips(dataset, "revos", clips=1)[0].expressions[0].targets[0]


def trace_faults(first: Callable[..., Fault]) -> dict[str, Fault]:
    return {
        "keyframe_beyond": first(lambda r: r["cot_trace"][0].update(key_frame=99), "frame index 99"),
        "no_trace": first(lambda r: r.pop("cot_trace"), "cot_trace"),
        "no_assistant": first(lambda r: r.update(conversations=[])),
        "shown_frame_beyond": first(lambda r: r["sample_frame_indice"].append(99), "frame index 99"),
        "more_choices_than_turns": first(lambda r: r["cot_trace"].extend(r["cot_trace"]), "entries in cot_trace"),
    }


def existence_faults(first: Callable[..., Fault]) -> dict[str, Fault]:
    file = "VideoSEG-O3-RL/rl_revos_data.json"
    t = first_seen("rl_annotations", "revos", first_target("rl_annotations"))

    def flip(m: Any) -> None:
        m[0][0]["mask_existence"][t] = 0

    return {
        "existence_differs": json_fault(file, flip, "existence", file, "record 0", f"({t})", "masks say 1"),
        "existence_too_short": first(lambda r: r["mask_existence"].pop(), "mask_existence"),
        "existence_of_two": first(lambda r: r["mask_existence"].__setitem__(0, 2), "mask_existence"),
        "no_existence": first(lambda r: r.pop("mask_existence"), "mask_existence"),
        "blank_text": first(lambda r: r.update(exp=" "), "text"),
        "empty_item": json_fault(file, lambda m: m.__setitem__(0, []), "malformed_record", file, "record 0"),
    }


def generic() -> list[Broken]:
    file, clip = "expressions.json", "all_00000"

    def first(how: Callable[[Any], object], *found: str) -> Fault:
        return json_fault(file, lambda m: how(m[clip]), *found)

    faults = png_faults(f"Annotations/{clip}/00003.png", clip, "00003.jpg", every_frame=False)
    frame = frame_faults(f"JPEGImages/{clip}/00003.jpg", clip, "00003.jpg")
    return cases(
        "generic", "all", clip, {k: v for k, v in frame.items() if k != "missing_frame"}, faults,
        {
            "annotations_cut": cut(file, "", file, "cut short"),
            "no_mapping": written(file, b"[]", "", file, "map"),
            "no_text": first(lambda m: m["0"].pop("exp"), "malformed_expression", file, clip, "exp"),
            "blank_text": first(lambda m: m["0"].update(exp=""), "malformed_expression", file, clip),
            "unknown_object": first(lambda m: m["0"].update(anno_id=[77]), "never_visible", clip, "annotation 77"),
            "object_is_a_word": first(lambda m: m["0"].update(anno_id=["dog"]), "no_masks", clip, "'dog'"),
            "no_masks_of_a_clip": missing(f"Annotations/{clip}", "no_masks", clip),
            "empty_mask_of_other_size": picture(
                f"Annotations/{clip}/00003.png", lambda: Image.new("L", (20, 30)), "mask_size", clip, "(30, 20)"
            ),
        },
    )  # fmt: skip


TRAINING = [
    *chatunivi(),
    *timelens(),
    *training("vts_cot", "VTG-CoT/revos.json", trace_faults),
    *training("rl_annotations", "VideoSEG-O3-RL/rl_revos_data.json", existence_faults),
    *generic(),
]
