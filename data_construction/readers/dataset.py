"""The one reader: clips, expressions and masklets of a split, by the data set's stanza."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.problems import Problem, Progress, problem_of
from data_construction.readers import masks as mask_readers
from data_construction.readers.annotations import ClipEntry, Dialogue, Index, read_index
from data_construction.readers.frame_files import frame_faults, frame_paths, frame_size, place_of
from data_construction.readers.indexed_json import open_json
from data_construction.readers.mask_formats.png_folder import PngFolder
from data_construction.readers.open_split import FrameCheck
from data_construction.readers.stanza import Stanza, load_stanza
from data_construction.readers.timing import clip_timing, rate_problem
from data_construction.readers.validate import find_problems
from rollout.errors import DataError
from rollout.types import RLE, Clip, Expression, Masklets, Sample


class Dataset:
    """One split of a data set on disk. Opening reads the annotation file only; masks and sizes come when asked for."""

    def __init__(self, stanza: Stanza, root: Path, split: str) -> None:
        self.stanza, self.split, self.root = stanza, split, Path(root).absolute()
        self.files = stanza.split(split, self.root)
        self.index: Index = read_index(self.root, stanza, self.files)
        self.masks: mask_readers.MaskSource | None = None
        if self.files.masks is not None and (self.root / self.files.masks).exists():
            self.masks = mask_readers.open_masks(self.root / self.files.masks, self.files)
        elif self.files.masks is not None and self.files.masks_required:
            raise DataError(f"{self.root / self.files.masks}: missing; data set {stanza.name} needs it for {split}")
        self._latest: Clip | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._sound: set[tuple[str, str]] = set()

    def __reduce__(self) -> tuple[type[Dataset], tuple[Stanza, Path, str]]:
        """Another process opens its own: files and lazy indexes do not travel."""
        return Dataset, (self.stanza, self.root, self.split)

    @property
    def name(self) -> str:
        return self.stanza.name

    def __len__(self) -> int:
        """Number of expressions."""
        return sum(len(e.expressions) for e in self.index.values())

    def clips(self) -> list[str]:
        """Clip names in the annotation file's order."""
        return list(self.index)

    def expressions(self, clip: str) -> list[Expression]:
        return list(self._entry(clip).expressions.values())

    def clip(self, name: str) -> Clip:
        """Frame paths and size. Raises DataError if the annotation file is wrong about this clip."""
        if self._latest is None or self._latest.name != name:
            entry = self._entry(name)
            if entry.refused is not None:
                raise entry.refused.error()
            height, width = self._size(entry)
            paths = self.frame_paths(entry)
            wrong_rate = rate_problem(paths[0], self.files, name)
            if wrong_rate is not None:
                raise wrong_rate.error()
            timing = clip_timing(paths, self.files)
            self._latest = Clip(name, tuple(str(p) for p in paths), height, width, timing.fps, timing.times)
        return self._latest

    def get(self, clip: str, expression_id: str, by_rule: bool = False) -> Sample:
        """One sample. Raises DataError naming file, clip and annotation if its masks do not fit its frames.

        ``by_rule`` is for scoring, see ``masklets``.
        """
        where, entry = self.clip(clip), self._entry(clip)
        if expression_id not in entry.expressions:
            raise DataError(f"{self.root}: clip {clip} has no expression {expression_id!r}; has {[*entry.expressions]}")
        expression = entry.expressions[expression_id]
        return Sample(where, expression, self.masklets(clip, expression.anno_ids, by_rule))

    def ask(self, clip: str, text: str) -> Sample:
        """A sample with a question of your own and no ground truth."""
        return Sample(self.clip(clip), Expression("ask", text))

    def samples(
        self, on_problem: Callable[[DataError], None] | None = None, frames: FrameCheck | None = None
    ) -> Iterator[Sample]:
        """Every expression in order. The first bad one raises, or goes to ``on_problem`` and the rest goes on.

        ``frames`` says how hard each clip's frames are looked at first; None: that they exist, where there is
        ``on_problem``, as one who goes on wants samples that can be used; else not at all.
        """
        frames = frames or ("exist" if on_problem is not None else "none")
        for entry in self.index.values():
            yield from self.samples_of(entry, on_problem or _stop, frames)

    def samples_of(self, entry: ClipEntry, report: Callable[[DataError], None], frames: FrameCheck) -> Iterator[Sample]:
        """The expressions of one clip that can be used; of each other one, or of all, ``report`` gets the reason."""
        for problem in [entry.refused] if entry.refused is not None else entry.faults:
            report(problem.error())
        if entry.refused is not None:
            return
        for bad_frame in self.frame_problems(entry, frames):
            report(bad_frame.error())
            return
        for odd in entry.odd.values():
            report(odd.error())
        for expression_id in [eid for eid in entry.expressions if eid not in entry.odd]:
            try:
                sample = self.get(entry.name, expression_id)
            except DataError as e:
                report(e)
                continue
            yield sample

    def masklets(self, clip: str, anno_ids: tuple[str, ...], by_rule: bool = False) -> Masklets | None:
        """Ground truth of some annotations of a clip; None where the split has no masks.

        No ids mean *no target* (all frames empty) in a split with masks. ``by_rule`` takes what the data sets' own
        tools take: masks beyond the last frame are ignored, an object without a folder is nowhere.
        """
        if self.masks is None:
            return None
        entry = self._entry(clip)
        height, width = self._size(entry)
        rles: list[tuple[RLE | None, ...]] = []
        for anno_id in anno_ids:
            read = getattr(self.masks, "read_by_rule", self.masks.read) if by_rule else self.masks.read
            found = read(entry, anno_id, lambda: (height, width))
            found = found[: len(entry.frames)] if by_rule else found
            if (clip, anno_id) not in self._sound:
                args = (found, entry.frames, (height, width), self.masks.path, clip, anno_id)
                for problem in mask_readers.rle_problems(*args):
                    raise problem.error()
                if not by_rule:
                    self._sound.add((clip, anno_id))
            rles.append(tuple(found))
        return Masklets(height, width, tuple(rles), len(entry.frames))

    def annotated_frames(self, clip: str) -> tuple[int, ...] | None:
        """Frames whose masks people drew, where the annotation file tells them from others; None: all."""
        return self._entry(clip).annotated

    def scored_frames(self, clip: str, anno_ids: tuple[str, ...]) -> tuple[int, ...] | None:
        """Frames that the data set's own tool scores, where it leaves those without a mask file out; None: all."""
        if not (self.files.unmasked_frames_left_out and isinstance(self.masks, PngFolder)):
            return None
        entry = self._entry(clip)
        found = {t for anno_id in anno_ids for t in self.masks.frames_with_file(entry, anno_id)}
        return None if len(found) == len(entry.frames) else tuple(sorted(found))

    def label_image(self, clip: str, frame: int) -> NDArray[np.uint8] | None:
        """(H, W) of annotation ids as the mask file of a frame holds them; None where there are no such files.

        Raises DataError for a file that is missing or cannot be read.
        """
        return self.masks.label_image(self._entry(clip), frame) if isinstance(self.masks, PngFolder) else None

    def existence(self, clip: str, expression_id: str) -> NDArray[np.uint8] | None:
        """(T,) 1 where a target is visible: by the masks, else as the annotation file says (TimeLens); else None."""
        entry = self._entry(clip)
        if self.masks is not None:
            masklets = self.masklets(clip, entry.expressions[expression_id].anno_ids)
            return None if masklets is None else masklets.existence()
        said = entry.existence.get(expression_id)
        return None if said is None else np.asarray(said, dtype=np.uint8)

    def dialogue(self, clip: str, expression_id: str) -> Dialogue:
        """(from, value) turns that the annotation file has for an expression (ChatUniVi, GCG, VTS-CoT); else none."""
        return self._entry(clip).dialogues.get(expression_id, ())

    def record(self, clip: str, expression_id: str) -> Any:
        """The whole item of a training file (a ``VTSCoTRecord``); None where the data set is no such file."""
        return self._entry(clip).records.get(expression_id)

    def foreground(self, clip: str, by_rule: bool = False) -> Masklets | None:
        """Everything in the foreground as one masklet (ReVOS); None where the data set has no such file.

        ``by_rule`` as in ``masklets``.
        """
        if self.files.foreground is None or not (self.root / self.files.foreground).is_file():
            return None
        path, entry = self.root / self.files.foreground, self._entry(clip)
        found = open_json(path)
        if not isinstance(found, Mapping):
            raise DataError(f"{path}: must map clips to their 'masks_rle'")
        body = found.get(clip)
        rles = body.get("masks_rle") if isinstance(body, dict) else None
        if not isinstance(rles, list):
            remedy = "add its masks, one RLE a frame"
            raise Problem("no_foreground", str(path), "has no 'masks_rle'", clip, remedy=remedy).error()
        size, rles = self._size(entry), rles[: len(entry.frames)] if by_rule else rles
        rles = mask_readers.one_form(rles, lambda: size, path, entry, "foreground")
        for problem in mask_readers.rle_problems(rles, entry.frames, size, path, clip, "foreground"):
            raise problem.error()
        return Masklets(*size, (tuple(rles),), len(entry.frames))

    def frame_problems(self, entry: ClipEntry, frames: FrameCheck) -> Iterator[Problem]:
        """What is wrong with a clip's frames: missing or, under "decode", unreadable or of another size."""
        if frames == "none":
            return
        try:
            paths = self.frame_paths(entry)
            size = self._size(entry) if frames == "decode" else None
        except DataError as e:
            yield problem_of(e, str(self.root), "unreadable_frame", entry.name)
            return
        yield from frame_faults(paths, entry, size, frames == "decode")

    def absent(self, entry: ClipEntry) -> Problem | None:
        """That nothing of a clip is there, neither a frame's folder nor a video; None if some of it is."""
        if not entry.frames:
            return entry.refused if entry.refused is not None and entry.refused.code == "missing_frame" else None
        try:
            place = place_of(frame_paths(self.root, self.files, replace(entry, frames=entry.frames[:1]))[0])
        except DataError:
            return None
        what = f"does not exist, so none of the clip's {len(entry.frames)} frames can be read"
        remedy = "get it, or remove the clip"
        return None if place.exists() else Problem("missing_frame", str(place), what, entry.name, remedy=remedy)

    def validate(
        self, frames: FrameCheck = "decode", progress: Progress | None = None, limit: int | None = None
    ) -> list[Problem]:
        """Everything that is wrong with this split; see ``readers.validate``."""
        return find_problems(self, frames, progress, limit)

    def frame_paths(self, entry: ClipEntry) -> list[Path]:
        """Where the clip's frames should lie, see ``readers.frame_files``."""
        return frame_paths(self.root, self.files, entry)

    def size(self, clip: str) -> tuple[int, int]:
        """(height, width) of a clip's frames: as annotated, else of the first frame. Raises DataError."""
        return self._size(self._entry(clip))

    def _entry(self, clip: str) -> ClipEntry:
        if clip not in self.index:
            raise DataError(f"{self.root}: data set {self.name}, split {self.split} has no clip {clip!r}")
        return self.index[clip]

    def _size(self, entry: ClipEntry) -> tuple[int, int]:
        """(height, width): as annotated, else of the first frame."""
        if entry.height is not None and entry.width is not None:
            return entry.height, entry.width
        if not entry.frames:
            raise DataError(f"{self.root}: clip {entry.name} of data set {self.name} has no frames")
        if entry.name not in self._sizes:
            self._sizes[entry.name] = frame_size(self.frame_paths(entry)[0], entry.name, entry.frames[0])
        return self._sizes[entry.name]


def _stop(error: DataError) -> None:
    raise error


def open_dataset(
    name: str, root: str | Path, split: str, strict: bool = False, frames: FrameCheck = "decode"
) -> Dataset:
    """Open one split of data set ``name`` (a stanza's name, or a YAML file's path) under ``root``.

    ``strict`` checks all of it first (``frames`` says how hard) and raises DataError naming file, clip and frame.
    """
    dataset = Dataset(load_stanza(name), Path(root), split)
    if strict:
        for problem in dataset.validate(frames, limit=1):
            raise problem.error()
    return dataset
