"""Write a synthetic data set in ReVOS layout: whole, or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_construction.atomic import new_folder, write_json
from data_construction.cot.build import write_training_files
from data_construction.cot.plan import TraceSettings
from data_construction.problems import Progress
from data_construction.readers import open_dataset
from data_construction.readers.files import read_json
from data_construction.synthetic.expressions import wanted_kinds
from data_construction.synthetic.prepared import PreparedClip, prepared_clips
from data_construction.synthetic.worlds import WORLDS, World, get_world
from rollout.errors import DataError, RecipeError
from rollout.types import RLE

DEFAULT_WORLD = "shapes"
MANIFEST, OBJECTS = "synthetic.json", "synthetic_objects.json"
MOST_FRAMES = 256
SIZE_LIMITS = (48, 1024)
FORMAT = 1
"""Raise it when the same arguments give other files, so that an older folder is not taken for the new one."""


@dataclass
class SyntheticReport:
    """What was written."""

    root: Path
    clips: dict[str, int]
    frames: int = 0
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Expressions by split and kind."""
    traces: int = 0
    reused: bool = False
    """The folder was there already, made with the same arguments."""


def make_synthetic(
    root: str | Path,
    clips: Mapping[str, int],
    seed: int,
    frames: tuple[int, int] | None = None,
    size: int | None = None,
    kinds: Iterable[str] | Mapping[str, float] | None = None,
    traces: TraceSettings | None = None,
    progress: Progress | None = None,
    world: str = DEFAULT_WORLD,
) -> SyntheticReport:
    """Make ``root``: JPEG frames, annotations, masks, RL annotations and VTS-CoT traces of the train split.

    clips: how many a split (train, valid, test). frames: fewest and most a clip. size: side in pixels.
    kinds: None, names, or expressions wanted a clip by kind (see ``expressions.DEFAULT_KINDS``).
    world: a name of ``worlds.WORLDS``, which also has the frames, size and kinds that are not given.
    The same arguments give the same bytes; if ``root`` was made with them before, nothing is done.
    Raises RecipeError for impossible arguments, DataError if ``root`` holds anything else.
    """
    root = Path(root).absolute()
    place = get_world(world)
    frames, size = frames or place.frames, size or place.size
    wanted = wanted_kinds(kinds, place.wanted, place.kinds)
    settings = traces or TraceSettings()
    _check(clips, frames, size, place, settings)
    manifest = {
        "format": FORMAT,
        "seed": seed,
        "clips": dict(clips),
        "frames": list(frames),
        "size": size,
        "kinds": wanted,
        "traces": settings.to_dict(),
        **({} if world == DEFAULT_WORLD else {"world": world}),
    }
    if (root / MANIFEST).is_file():
        return _reuse(root, manifest)
    report = SyntheticReport(root, dict(clips))
    with new_folder(root) as folder:
        store = _Store(folder, place.kinds)
        for split, total in clips.items():
            for number, clip in enumerate(prepared_clips(total, world, seed, split, frames, size, wanted)):
                if progress is not None:
                    progress(number, total, f"drawing {split} clips")
                store.add(clip)
            report.kinds[split] = store.finish_split(split)
            if progress is not None:
                progress(total, total, f"drawing {split} clips")
        store.finish()
        report.frames = store.num_frames
        if "train" in clips:
            train = open_dataset("revos", folder, "train")
            report.traces = write_training_files(train, folder, settings, seed, progress)
        summary = {"frames": report.frames, "kinds": report.kinds, "traces": report.traces}
        write_json(folder / MANIFEST, {**manifest, "written": summary})
    return report


def read_synthetic_objects(root: str | Path) -> dict[str, dict[str, Any]]:
    """``{anno_id: {"video", "color", "shape", "radius", ...}}``. Raises DataError if the folder has none."""
    raw = read_json(Path(root) / OBJECTS)
    if not isinstance(raw, dict):
        raise DataError(f"{Path(root) / OBJECTS}: must map annotation ids to descriptions")
    return raw


def object_words(description: Mapping[str, Any]) -> tuple[str, ...]:
    """What a described object is called, the most telling word first: for the mask warm-up."""
    return tuple(description.get("words") or (description["color"], description["shape"]))


def _check(clips: Mapping[str, int], frames: tuple[int, int], size: int, world: World, traces: TraceSettings) -> None:
    unknown = set(clips) - {"train", "valid", "test"}
    if unknown or not clips or min(clips.values()) < 1:
        raise RecipeError(f"clips = {dict(clips)}: wants a number >= 1 for some of train, valid, test")
    if not world.least_frames <= frames[0] <= frames[1] <= MOST_FRAMES:
        raise RecipeError(f"frames = {frames}: wants {world.least_frames} <= fewest <= most <= {MOST_FRAMES}")
    if not SIZE_LIMITS[0] <= size <= SIZE_LIMITS[1]:
        raise RecipeError(f"size = {size}: wants {SIZE_LIMITS[0]}..{SIZE_LIMITS[1]} pixels")
    if size % world.size_unit:
        raise RecipeError(f"size = {size}: world {world.name} wants a multiple of {world.size_unit} pixels")
    if traces.wrong_twin and not world.twins:
        raise RecipeError(
            f"traces: wrong_twin = {traces.wrong_twin}: world {world.name} has no like objects; leave it 0, or take "
            f"world {', '.join(w.name for w in WORLDS.values() if w.twins)}"
        )


def _reuse(root: Path, manifest: dict[str, Any]) -> SyntheticReport:
    found = read_json(root / MANIFEST)
    written = found.pop("written", {})
    wanted = json.loads(json.dumps(manifest))
    differ = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
    if differ:
        k = differ[0]
        raise DataError(
            f"{root}: holds a synthetic data set made with {k} = {found.get(k)}, now asked for {wanted.get(k)}; "
            "give another folder, or remove this one"
        )
    return SyntheticReport(root, wanted["clips"], written["frames"], written["kinds"], written["traces"], True)


class _Store:
    """Collects what goes into the JSON files while frames go to disk; annotation ids count up over all splits."""

    def __init__(self, folder: Path, kinds: tuple[str, ...]) -> None:
        self.folder, self.known_kinds = folder, kinds
        self.masks: dict[str, list[RLE | None]] = {}
        self.foreground: dict[str, dict[str, list[RLE]]] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.videos: dict[str, Any] = {}
        self.kinds: Counter[str] = Counter()
        self.num_frames = 0

    def add(self, clip: PreparedClip) -> None:
        names = [f"{t:05d}" for t in range(len(clip.frames))]
        self._write_frames(clip, names)
        ids = [len(self.masks) + k for k in range(len(clip.objects))]
        for k, anno_id in enumerate(ids):
            self.masks[str(anno_id)] = clip.masks[k]
            self.objects[str(anno_id)] = {"video": clip.name, "obj_id": k, **clip.objects[k]}
        self.foreground[clip.name] = {"masks_rle": [r for r in clip.foreground if r is not None]}
        expressions = {
            str(n): {
                "exp": e.text,
                "obj_id": list(e.targets),
                "anno_id": [ids[k] for k in e.targets],
                "type_id": e.type_id,
                "kind": e.kind,
                **({"legible": list(e.legible)} if e.legible else {}),
            }
            for n, e in enumerate(clip.expressions)
        }
        self.kinds.update(e.kind for e in clip.expressions)
        self.videos[clip.name] = {
            "vid_id": len(self.foreground) - 1,
            "frames": names,
            "height": clip.size,
            "width": clip.size,
            "expressions": expressions,
        }
        self.num_frames += len(names)

    def finish_split(self, split: str) -> dict[str, int]:
        """Write the split's annotation file; returns its expressions by kind."""
        write_json(self.folder / f"meta_expressions_{split}_.json", {"videos": self.videos})
        kinds = {k: self.kinds[k] for k in self.known_kinds if k in self.kinds}
        self.videos, self.kinds = {}, Counter()
        return kinds

    def finish(self) -> None:
        write_json(self.folder / "mask_dict.json", self.masks)
        write_json(self.folder / "mask_dict_foreground.json", self.foreground)
        write_json(self.folder / OBJECTS, self.objects)

    def _write_frames(self, clip: PreparedClip, names: list[str]) -> None:
        folder = self.folder / "JPEGImages" / clip.name
        folder.mkdir(parents=True)
        for name, jpeg in zip(names, clip.frames, strict=True):
            (folder / f"{name}.jpg").write_bytes(jpeg)
