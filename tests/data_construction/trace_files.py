"""Small trace files of both methods from a synthetic data set, without any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_construction.cot.build import read_names, scene_objects, trace_sample
from data_construction.cot.plan import TraceSettings
from data_construction.readers import Dataset, open_dataset
from data_construction.readers.records import rl_annotation
from data_construction.verify.checks.boxes import object_boxes
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.frames import keyframe_congruent
from rollout.messages import FramePart, Message
from rollout.types import Sample

Line = dict[str, Any]
FRAMES = 8


def line_of(dataset: Dataset, sample: Sample, method: str, record: Line, **extra: Any) -> Line:
    e = sample.expression
    return {
        "id": f"{dataset.name}/{dataset.split}/{sample.id}",
        "method": method,
        "status": "ok",
        "dataset": dataset.name,
        "split": dataset.split,
        "clip": sample.clip.name,
        "expression_id": e.id,
        "exp": e.text,
        "anno_id": [int(a) for a in e.anno_ids],
        "type_id": e.type_id,
        "kind": e.kind,
        "record": record,
        **extra,
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0},
        "attempt": 1,
        "reason": "",
    }


def planned(root: Path, split: str = "valid", settings: TraceSettings | None = None) -> list[Line]:
    """VideoSEG-O3's, one an expression."""
    dataset = open_dataset("revos", root, split)
    lines = []
    for clip in dataset.clips():
        objects = scene_objects(dataset, clip, read_names(root).get(clip, {}))
        for expression in dataset.expressions(clip):
            sample = dataset.get(clip, expression.id)
            record = trace_sample(sample, objects, settings or TraceSettings(), seed=1).to_dict()
            assert sample.masklets is not None
            annotation = rl_annotation(sample, sample.masklets.existence().astype(bool))
            lines.append(line_of(dataset, sample, "videoseg_o3", record, rl_annotation=annotation))
    return lines


def boxed(root: Path, split: str = "valid") -> list[Line]:
    """Veason-R1's, one an expression with a target."""
    dataset = open_dataset("revos", root, split)
    lines = []
    for n, sample in enumerate(s for s in dataset.samples() if s.expression.anno_ids):
        masklets = sample.masklets
        assert masklets is not None
        frames, keyframe = keyframe_congruent(masklets.areas(), FRAMES, np.random.default_rng(n))
        environment = SingleTurnBoxes(sample, BoxSettings(frames=FRAMES), frames=frames)
        messages = environment.begin()
        assert isinstance(messages, list)
        turns = [{"from": {"user": "human"}.get(m.role, m.role), "value": flat(m)} for m in messages]
        boxes = object_boxes(masklets, keyframe, 560).astype(int).tolist()
        answer = json.dumps({"keyframe_timestamp": keyframe, "bbox_2d_list": boxes})
        think = (
            f"Shapes drift about in {sample.clip.name}. The target is visible at {keyframe} s, the best view. "
            f"The query number {n} asks for {sample.expression.text}, found near {boxes[0][0]} across."
        )
        turns.append({"from": "gpt", "value": f"<think>{think}</think><answer>{answer}</answer>"})
        record = {"frames": frames, "keyframe": keyframe, "conversations": turns, "bbox_2d_list": boxes}
        lines.append(line_of(dataset, sample, "veason_r1", record))
    return lines


def flat(message: Message) -> str:
    return "".join("<image>" if isinstance(p, FramePart) else p.text for p in message.parts)


def write(path: Path, lines: list[Line]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]
