"""Layouts of ChatUniVi, TimeLens, VTS-CoT, the RL annotations and generic folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_construction.layouts.clips import DrawnClip
from data_construction.layouts.registry import Clips, layout
from data_construction.layouts.writing import (
    frame_names,
    one_object,
    write_frames,
    write_json,
    write_palette,
    write_video,
)
from rollout.types import RLE

FPS = 8
PLACES = {
    "revos": ("revos", "revos"),
    "mevis": ("mevis/train", "mevis/train/JPEGImages"),
    "longrvos": ("Long-RVOS/train", "Long-RVOS/train/JPEGImages"),
}
"""Of each source: where mask_dict.json lies, and its clips' frames, under video_datas."""


@layout("chatunivi")
def write_chatunivi(root: Path, clips: Clips) -> None:
    """video_chat.json and Activity_Videos; two conversations a video."""
    items = []
    for clip in clips["train"]:
        write_video(root / "Activity_Videos" / clip.name, clip.frames, FPS)
        for n, ask in enumerate(("What is to be seen?", "How many shapes are there?")):
            answer = ", ".join(text for text, _ in one_object(clip)) if n == 0 else str(len(clip.masks))
            turns = [{"from": "human", "value": f"<video>\n{ask}"}, {"from": "gpt", "value": answer}]
            items.append({"id": f"VIDEO_{2 * clip.number + n}", "video": clip.name, "conversations": turns})
    write_json(root / "video_chat.json", items)


@layout("timelens")
def write_timelens(root: Path, clips: Clips) -> None:
    """timelens-100k.jsonl and videos; an event is an object's time in the clip, in seconds."""
    lines = []
    for clip in clips["train"]:
        write_video(root / "videos" / clip.name, clip.frames, FPS)
        events = []
        for text, k in one_object(clip):
            seen = clip.masks[k].any((1, 2)).nonzero()[0].tolist()
            events.append({"query": f"{text} is there", "span": [[seen[0] / FPS, seen[-1] / FPS]]})
        item = {"source": "cosmo_cap", "video_path": clip.name, "duration": clip.num_frames / FPS, "events": events}
        lines.append(json.dumps(item))
    (root / "timelens-100k.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@layout("vts_cot")
def write_vts_cot(root: Path, clips: Clips) -> None:
    """VTG-CoT/<source>.json beside video_datas: two turns a trace, the second one answers."""
    for split, drawn in clips.items():
        records = [_trace(clip, record) for clip, record in _sources(root, split, drawn)]
        write_json(root / "VTG-CoT" / f"{split}.json", records)


@layout("rl_annotations")
def write_rl_annotations(root: Path, clips: Clips) -> None:
    """VideoSEG-O3-RL/rl_<source>_data.json beside video_datas: lists of one object."""
    for split, drawn in clips.items():
        items = [
            [{**record, "mask_existence": _existence(clip, record["targets"])}]
            for clip, record in _sources(root, split, drawn)
        ]
        for (item,) in items:
            del item["targets"]
        write_json(root / "VideoSEG-O3-RL" / f"rl_{split}_data.json", items)


def _sources(root: Path, split: str, drawn: list[DrawnClip]) -> Iterator[tuple[DrawnClip, dict[str, Any]]]:
    """Write frames and masks of a source; what both training files say of each expression."""
    mask_place, frame_place = PLACES[split]
    masks: dict[str, list[RLE | None]] = {}
    for clip in drawn:
        names, first = frame_names(clip), len(masks)
        write_frames(root / "video_datas" / frame_place / clip.name, clip, names)
        for k in range(len(clip.masks)):
            masks[str(first + k)] = clip.rles(k)
        for e in clip.expressions:
            ids = [first + k for k in e.targets]
            yield (
                clip,
                {
                    "video_name": clip.name,
                    "frames": names,
                    "exp": e.text,
                    "anno_id": ids,
                    "targets": list(e.targets),
                },
            )
    write_json(root / "video_datas" / mask_place / "mask_dict.json", masks)


def _existence(clip: DrawnClip, targets: list[int]) -> list[int]:
    return [int(clip.masks[targets, t].any()) for t in range(clip.num_frames)]


def _trace(clip: DrawnClip, record: dict[str, Any]) -> dict[str, Any]:
    seen = [t for t, there in enumerate(_existence(clip, record["targets"])) if there] or [0, clip.num_frames - 1]
    wide, close = (0, clip.num_frames - 1, seen[0]), (seen[0], seen[-1], seen[len(seen) // 2])
    turns = [{"from": "system", "value": "Find the target."}]
    for action, (start, end, keyframe) in (("select", wide), ("answer", close)):
        grounding = json.dumps({"start": start, "end": end, "keyframe": keyframe})
        turns.append({"from": "human", "value": f'The query is "{record["exp"]}".'})
        body = f"<VTG>{grounding}</VTG> <RefSeg> [SEG] </RefSeg>"
        turns.append({"from": "gpt", "value": f"<think>Step 1: look.</think><{action}>{body}</{action}>"})
    return {
        **{k: v for k, v in record.items() if k != "targets"},
        "sample_frame_indice": [0, clip.num_frames // 2, clip.num_frames - 1],
        "cot_trace": [{"start_frame": s, "end_frame": e, "key_frame": k} for s, e, k in (wide, close)],
        "conversations": turns,
    }


@layout("generic")
def write_generic(root: Path, clips: Clips) -> None:
    """Folders of frames, and every second clip as mp4; expressions.json with object ids, palette masks."""
    texts: dict[str, Any] = {}
    for clip in clips["all"]:
        video = clip.number % 2 == 1
        names = [str(t) for t in range(clip.num_frames)] if video else frame_names(clip)
        if video:
            write_video(root / "videos" / f"{clip.name}.mp4", clip.frames, FPS)
        else:
            write_frames(root / "JPEGImages" / clip.name, clip, names)
        for t, name in enumerate(names):
            write_palette(root / "Annotations" / clip.name / f"{name}.png", clip.masks[:, t])
        asked = clip.expressions
        texts[clip.name] = {str(n): {"exp": e.text, "anno_id": [k + 1 for k in e.targets]} for n, e in enumerate(asked)}
    write_json(root / "expressions.json", texts)
