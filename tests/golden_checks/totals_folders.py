"""The data sets of the golden totals on disk, each in its own layout, and their predictions as a run's results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Data = dict[str, Any]
VOID = 255


def ref_sav(data: Data, root: Path) -> None:
    _json(root / "meta_expressions_valid.json", data["meta_expressions"])
    _json(root / "mask_dict.json", data["mask_dict"])


def revos(data: Data, root: Path) -> None:
    _json(root / "meta_expressions_valid_.json", data["meta_expressions"])
    _json(root / "mask_dict.json", data["mask_dict"])
    _json(root / "mask_dict_foreground.json", data["mask_dict_foreground"])


def mevis(data: Data, root: Path) -> None:
    _json(root / "valid_u/meta_expressions.json", data["meta_expressions"])
    _json(root / "valid_u/mask_dict.json", data["mask_dict"])
    _frames(root / "valid_u/JPEGImages", data)


def long_rvos(data: Data, root: Path) -> None:
    _json(root / "valid/meta_expressions.json", data["meta_expressions"])
    for clip, objects in data["masks"].items():
        for obj, frames in objects.items():
            for frame, rle in frames.items():
                _png(root / "valid/Annotations" / clip / obj / f"{frame}.png", 255 * _decoded(rle, data["sizes"][clip]))
    _frames(root / "valid/JPEGImages", data)


def reasonvos(data: Data, root: Path) -> None:
    _json(root / "meta_expressions.json", data["meta_expressions"])
    for clip, video in data["meta_expressions"]["videos"].items():
        for obj in {e["obj_id"] for e in video["expressions"]}:
            name = f"{video['source']}_{clip}_{obj}"
            masks = data["masks"][name]
            for frame, rle in masks["frames"].items():
                values = masks["value"] * _decoded(rle, data["sizes"][clip])
                _png(root / "Annotations" / name / f"{frame}.png", values)
    _frames(root / "JPEGImages", data)


def groundmore(data: Data, root: Path) -> None:
    _json(root / "test_v2.json", data["metadata"])
    for clip, facts in data["frames"].items():
        folder, size = root / "annotations" / clip, (facts["height"], facts["width"])
        for t in range(facts["num_frames"]):
            _image(folder / "images" / f"frame_{t:06d}.jpg", size)
        for t, objects in data["masks"][clip].items():
            values = np.zeros(size, np.uint8)
            for obj, rle in objects.items():
                values[_decoded(rle, size) == 1] = int(obj)
            _png(folder / "masks" / f"frame_{int(t):06d}.png", values)


def vicas(data: Data, root: Path) -> None:
    _json(root / "splits/v1.0/val.json", data["split"])
    for name, content in data["annotations"].items():
        _json(root / "annotations/v1.0" / f"{name}.json", content)


def ref_davis17(data: Data, root: Path) -> None:
    _json(root / "meta_expressions/valid/meta_expressions.json", data["meta_expressions"])
    for clip, masks in data["masks"].items():
        frames = data["meta_expressions"]["videos"][clip]["frames"]
        for t, frame in enumerate(frames):
            values = np.zeros(masks["size"], np.uint8)
            for obj, track in masks["labels"].items():
                values[_decoded(track[t], masks["size"]) == 1] = int(obj)
            values[_decoded(masks["void"][t], masks["size"]) == 1] = VOID
            _png(root / "valid/Annotations" / clip / f"{frame}.png", values)
            _image(root / "valid/JPEGImages" / clip / f"{frame}.jpg", masks["size"])


def write_results(benchmark: Any, root: Path, case: Data, drop: Callable[[list[str], list[str]], bool]) -> Path:
    """``results.jsonl``: every prediction of a case; ``drop`` says by the missing frames (and all frames) of an
    expression whether the tool has no prediction for it at all."""
    from eval.results.record import ResultRecord, TurnRecord
    from eval.results.results_file import RESULTS_FILE, ResultsFile
    from rollout.types import Action, StopReason

    turn, dataset = TurnRecord("", Action.ANSWER, None, 0, (0,), 1), benchmark.dataset_at(root)
    with ResultsFile(root / "run" / RESULTS_FILE) as results:
        for clip, answers in case["predictions"].items():
            entry, (height, width) = dataset.index[clip], dataset.size(clip)
            by_id = {_tool_id(e): e for e in entry.expressions.values()}
            for key, answer in answers.items() if isinstance(answers, dict) else enumerate(answers):
                lost = case.get("missing_frames", {}).get(clip, {}).get(str(key), [])
                if drop(lost, list(entry.frames)):
                    continue
                e = by_id[str(key)]
                tracks = [answer["prediction_masks"]] if isinstance(answer, dict) else answer
                union = _union(tracks, len(entry.frames))
                head = (clip, e.id, e.text, e.type_id, e.kind, len(union), height, width, (0,))
                objects = None if isinstance(answer, dict) else tuple(map(tuple, tracks))
                results.append(ResultRecord(*head, StopReason.ANSWERED, (turn,), union, objects=objects))
    return results.path


def _tool_id(expression: Any) -> str:
    """ReasonVOS' tool always names the object first; others use the expression's id."""
    whole_number = expression.anno_ids and expression.text.startswith("question") and "_" not in expression.id
    is_reasonvos = whole_number and "@" not in expression.anno_ids[0]
    return f"{expression.anno_ids[0]}_{expression.id}" if is_reasonvos else expression.id


def _union(tracks: list[list[Any]], frames: int) -> tuple[Any, ...]:
    from pycocotools import mask as coco_mask

    from rollout.types import packed

    out = []
    for t in range(frames):
        here = [packed(track[t]) for track in tracks if track[t] is not None]
        merged = coco_mask.merge(here) if here else None
        out.append(merged and {"size": [int(n) for n in merged["size"]], "counts": merged["counts"].decode()})
    return tuple(out)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _decoded(rle: Any, size: Any) -> NDArray[np.uint8]:
    from rollout.types import decode_rle

    return np.zeros(tuple(size), np.uint8) if rle is None else decode_rle(rle).astype(np.uint8)


def _png(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _image(path: Path, size: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0])).save(path)


def _frames(folder: Path, data: Data) -> None:
    """The first frame of each clip, which says how large it is."""
    for clip, video in data["meta_expressions"]["videos"].items():
        _image(folder / clip / f"{video['frames'][0]}.jpg", data["sizes"][clip])
