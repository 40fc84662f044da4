"""Results to submit, and submissions to spoil."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from PIL import Image

from eval.benchmarks import Benchmark, load_benchmark
from eval.results.record import ResultRecord, TurnRecord
from eval.results.results_file import ResultsFile
from eval.submission import Packed, write_submission
from rollout.types import Action, Sample, StopReason
from tests.eval.clips import disk, rle


def answer(sample: Sample, stop: StopReason = StopReason.ANSWERED) -> ResultRecord:
    """A disk that moves, nothing in frame 1; RLE as bytes of text or as a list of runs."""
    clip, e = sample.clip, sample.expression
    masks = [
        rle(disk(5 + 2 * t, clip.height / 2, 4 + len(e.id), clip.height, clip.width)) for t in range(clip.num_frames)
    ]
    masks[0] = {"size": [clip.height, clip.width], "counts": [3, 5, clip.height * clip.width - 8]}
    prediction = tuple(None if t == 1 else mask for t, mask in enumerate(masks))
    head = (clip.name, e.id, e.text, e.type_id, e.kind, clip.num_frames, clip.height, clip.width, (0,))
    turns = () if stop is StopReason.REFUSED_CLIP else (TurnRecord("<answer/>", Action.ANSWER, None, 0, (0,), 1),)
    return ResultRecord(*head, stop, turns, prediction)


def results_of(samples: list[Sample], path: Path) -> Path:
    with ResultsFile(path) as file:
        for sample in samples:
            file.append(answer(sample))
    return path


class Mevis:
    """The validation split of MeViS and results for all of it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.benchmark: Benchmark = load_benchmark("mevis_valid")
        self.samples = list(self.benchmark.samples(root))
        self.results = results_of(self.samples, folder / "results.jsonl")
        self.out = folder / "sub.zip"

    def write(self, **options: bool) -> Packed:
        return write_submission(self.results, self.benchmark, self.root, self.out, **options)


def rezip(path: Path, edit: dict[str, bytes | None]) -> None:
    """Files replaced, or taken out where the new content is None; new ones added."""
    with zipfile.ZipFile(path) as archive:
        content = {n: archive.read(n) for n in archive.namelist()}
    content |= {n: c for n, c in edit.items() if c is not None}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            if name not in edit or edit[name] is not None:
                archive.writestr(name, data)


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind)
    return out.getvalue()
