"""Layouts of Ref-SAV, GroundMoRe and ViCaS, each with files of its own kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_construction.layouts.clips import DrawnClip, text_rle
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

SAV_STEP, SAV_FPS = 4, 24
QUESTION_TYPES = ("Causal", "Sequential", "Counterfactual", "Descriptive")
ACTIONS = (("1:00", "1:01"), ("1:01", "1:02"), ("1:00", "1:02"))


@layout("ref_sav")
def write_ref_sav(root: Path, clips: Clips) -> None:
    """valid: mp4 whose every fourth frame is annotated, type 0 long and 1 short; train: SA-V's JSON a video."""
    masks: dict[str, list[RLE | None]] = {}
    videos: dict[str, Any] = {}
    for clip in clips["valid"]:
        names = frame_names(clip, SAV_STEP)
        _sav_video(root / "videos" / clip.name[:7] / f"{clip.name}.mp4", clip)
        expressions: dict[str, Any] = {}
        for n, e in enumerate(clip.expressions):
            ids = []
            for k in e.targets:
                ids.append(len(masks))
                masks[str(len(masks))] = clip.rles(k)
            expressions[str(n)] = {"exp": e.text, "obj_id": list(e.targets), "anno_id": ids, "type_id": n % 2}
        height, width = clip.frames.shape[1:3]
        video = {"vid_id": clip.number, "height": height, "width": width, "frames": names}
        videos[clip.name] = {**video, "expressions": expressions}
    write_json(root / "meta_expressions_valid.json", {"videos": videos})
    write_json(root / "mask_dict.json", masks)
    train: dict[str, Any] = {}
    for clip in clips["train"]:
        folder, name = f"sav_train/{clip.name[:7]}", clip.name
        _sav_video(root / "sam_v_full" / folder / f"{name}.mp4", clip)
        masklet = [[text_rle(m) for m in clip.masks[:, t]] for t in range(clip.num_frames)]
        write_json(root / "sam_v_full" / folder / f"{name}_manual.json", {"video_id": name, "masklet": masklet})
        train[name] = {
            # The released file repeats the folder before sav_train.
            "video_path": f"{name[:7]}/{folder}/{name}.mp4",
            "anno_path": f"{name[:7]}/{folder}/{name}_manual.json",
            "objects": {str(k): {"formated": text} for text, k in one_object(clip)},
        }
    write_json(root / "sam_v_final_custom.json", train)


def _sav_video(path: Path, clip: DrawnClip) -> None:
    write_video(path, np.repeat(clip.frames, SAV_STEP, axis=0), SAV_FPS)


@layout("groundmore")
def write_groundmore(root: Path, clips: Clips) -> None:
    """Frames and palette masks by clip under annotations/; questions with the times of their action in the film."""
    for split, drawn in clips.items():
        videos: dict[str, Any] = {}
        for clip in drawn:
            folder = root / "annotations" / clip.name
            names = [f"frame_{t:06d}" for t in range(clip.num_frames)]
            write_frames(folder / "images", clip, names)
            for t, name in enumerate(names):
                if clip.masks[:, t].any():
                    write_palette(folder / "masks" / f"{name}.png", clip.masks[:, t])
            questions: dict[str, Any] = {}
            for text, k in one_object(clip):
                for start, end in ACTIONS:
                    if clip.masks[k, action_window(start, end)].any():
                        n = len(questions) + 1
                        question = {"question": f"Who is {text}?", "answer": text, "obj_id": str(k + 1)}
                        kind = QUESTION_TYPES[(n + clip.number) % 4]
                        questions[str(n)] = {**question, "q_type": kind, "action_start": start, "action_end": end}
            videos[clip.name] = {"questions": questions}
        write_json(root / f"{split}_v2.json", {"videos": videos})


def action_window(start: str, end: str) -> slice:
    """Frames of an action in a clip that starts at 1:00, six a second."""
    return slice(6 * int(start[2:]), 6 * int(end[2:]))


@layout("vicas")
def write_vicas(root: Path, clips: Clips) -> None:
    """One JSON a video; frames as JPEG, but every third video only as mp4."""
    for split, drawn in clips.items():
        for clip in drawn:
            names, filename = frame_names(clip), f"{clip.name}_some_video.mp4"
            write_video(root / "videos" / filename, clip.frames, 30)
            if clip.number % 3 != 1:
                write_frames(root / "video_frames" / clip.name, clip, names)
            tracks = list(range(1, len(clip.masks) + 1))
            segmentations = []
            for t, name in enumerate(names):
                shown = [k for k in range(len(tracks)) if clip.masks[k, t].any()]
                rles = [text_rle(clip.masks[k, t]) for k in shown]
                segmentation = {"filename": f"{name}.jpg", "is_gt": t % 30 == 0, "track_ids": [k + 1 for k in shown]}
                segmentations.append({**segmentation, "mask_rles": rles})
            prompts = [{"prompt": e.text, "track_ids": [k + 1 for k in e.targets]} for e in clip.expressions]
            captions = {f"caption_{form}_{of}": "" for form in ("raw", "parsed") for of in ("en", "en_gpt", "cn")}
            content = {
                "video_id": int(clip.name),
                "src_dataset": "oops",
                "filename": filename,
                "image_size": list(clip.frames.shape[1:3]),
                **captions,
                "reworded_en_captions": [],
                "object_referrals": prompts,
                "segmentations": segmentations,
                "all_track_ids": tracks,
            }
            write_json(root / "annotations/v1.0" / f"{clip.name}.json", content)
        path = root / "splits/v1.0" / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([int(c.name) for c in drawn], indent=2), encoding="utf-8")
