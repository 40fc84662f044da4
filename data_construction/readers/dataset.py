"""The one reader: clips, expressions and masklets of a split, by the data set's stanza."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from data_construction.problems import Problem, Progress
from data_construction.readers import masks as mask_readers
from data_construction.readers.annotations import ClipEntry, read_index
from data_construction.readers.files import read_json_shared
from data_construction.readers.stanza import Stanza, load_stanza
from rollout.errors import DataError
from rollout.types import RLE, Clip, Expression, Masklets, Sample

FrameCheck = Literal["none", "exist", "decode"]


class Dataset:
    """One split of a data set on disk. Opening reads the annotation file only; masks and sizes come when asked for."""

    def __init__(self, stanza: Stanza, root: Path, split: str) -> None:
        self.stanza, self.split, self.root = stanza, split, Path(root).absolute()
        self.files = stanza.split(split)
        self.index: dict[str, ClipEntry] = read_index(self.root, stanza, self.files)
        self.masks: mask_readers.MaskSource | None = None
        if self.files.masks is not None and (self.root / self.files.masks).exists():
            self.masks = mask_readers.open_masks(stanza.mask_format, self.root / self.files.masks)
        elif self.files.masks is not None and stanza.mask_format == "rle_dict":
            raise DataError(f"{self.root / self.files.masks}: missing; data set {stanza.name} needs it for {split}")
        self._latest: Clip | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._sound: set[tuple[str, str]] = set()

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
            if entry.problems:
                raise entry.problems[0].error()
            height, width = self._size(entry)
            self._latest = Clip(name, tuple(str(p) for p in self.frame_paths(entry)), height, width)
        return self._latest

    def get(self, clip: str, expression_id: str) -> Sample:
        """One sample. Raises DataError naming file, clip and annotation if its masks do not fit its frames."""
        where, entry = self.clip(clip), self._entry(clip)
        if expression_id not in entry.expressions:
            raise DataError(f"{self.root}: clip {clip} has no expression {expression_id!r}; has {[*entry.expressions]}")
        expression = entry.expressions[expression_id]
        return Sample(where, expression, self.masklets(clip, expression.anno_ids))

    def ask(self, clip: str, text: str) -> Sample:
        """A sample with a question of your own and no ground truth."""
        return Sample(self.clip(clip), Expression("ask", text))

    def samples(self, on_problem: Callable[[DataError], None] | None = None) -> Iterator[Sample]:
        """Every expression in order. The first bad one raises, or goes to ``on_problem`` and the rest goes on."""
        report = on_problem or _stop
        for entry in self.index.values():
            if entry.problems:
                report(entry.problems[0].error())
                continue
            for expression_id in entry.expressions:
                try:
                    sample = self.get(entry.name, expression_id)
                except DataError as e:
                    report(e)
                    continue
                yield sample

    def masklets(self, clip: str, anno_ids: tuple[str, ...]) -> Masklets | None:
        """Ground truth of some annotations of a clip; None where the split has no masks.

        No ids mean *no target* (all frames empty) in a split with masks.
        """
        if self.masks is None:
            return None
        entry = self._entry(clip)
        height, width = self._size(entry)
        rles: list[tuple[RLE | None, ...]] = []
        for anno_id in anno_ids:
            found = self.masks.read(clip, anno_id, entry.frames)
            if (clip, anno_id) not in self._sound:
                args = (found, entry.frames, (height, width), self.masks.path, clip, anno_id)
                for problem in mask_readers.rle_problems(*args):
                    raise problem.error()
                self._sound.add((clip, anno_id))
            rles.append(tuple(found))
        return Masklets(height, width, tuple(rles), len(entry.frames))

    def foreground(self, clip: str) -> Masklets | None:
        """Everything in the foreground as one masklet (ReVOS); None where the data set has no such file."""
        if self.files.foreground is None or not (self.root / self.files.foreground).is_file():
            return None
        path, entry = self.root / self.files.foreground, self._entry(clip)
        rles = (read_json_shared(path).get(clip) or {}).get("masks_rle")
        if not isinstance(rles, list):
            raise Problem("no_foreground", str(path), "has no 'masks_rle'", clip).error()
        size = self._size(entry)
        for problem in mask_readers.rle_problems(rles, entry.frames, size, path, clip, "foreground"):
            raise problem.error()
        return Masklets(*size, (tuple(rles),), len(entry.frames))

    def validate(
        self, frames: FrameCheck = "decode", progress: Progress | None = None, limit: int | None = None
    ) -> list[Problem]:
        """Everything that is wrong with this split; see ``readers.validate``."""
        from data_construction.readers.validate import find_problems

        return find_problems(self, frames, progress, limit)

    def frame_paths(self, entry: ClipEntry) -> list[Path]:
        """Where the clip's frames should lie: the first pattern whose folder exists, else the first."""
        patterns = self.files.frames
        first = entry.frames[0]
        found = [p for p in patterns if (self.root / p.format(clip=entry.name, frame=first)).parent.is_dir()]
        pattern = found[0] if found else patterns[0]
        return [self.root / pattern.format(clip=entry.name, frame=f) for f in entry.frames]

    def _entry(self, clip: str) -> ClipEntry:
        if clip not in self.index:
            raise DataError(f"{self.root}: data set {self.name}, split {self.split} has no clip {clip!r}")
        return self.index[clip]

    def _size(self, entry: ClipEntry) -> tuple[int, int]:
        """(height, width): as annotated, else of the first frame."""
        if entry.height is not None and entry.width is not None:
            return entry.height, entry.width
        if entry.name not in self._sizes:
            from PIL import Image

            path = self.frame_paths(entry)[0]
            try:
                with Image.open(path) as image:
                    self._sizes[entry.name] = (image.height, image.width)
            except OSError as e:
                raise Problem("unreadable_frame", str(path), str(e), entry.name, entry.frames[0]).error() from e
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
