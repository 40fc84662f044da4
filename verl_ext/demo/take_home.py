"""What a visitor downloads: the film, masks as PNG, masks as RLE."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from eval.packagers.base import Answer
from eval.packagers.png_folders import PngFolders
from rollout.types import Clip, Expression
from verl_ext.demo.engine import Answered
from verl_ext.demo.film import write_film


def write_all(folder: Path, clip: Clip, answers: Sequence[Answered], results: Path) -> list[Path]:
    """Film, archive (``<clip>/<number of the sentence>/<frame>.png``) and results (COCO RLE, one sentence a line, as
    ``videoseg view`` opens them)."""
    folder.mkdir(exist_ok=True)
    film, archive, rles = (folder / f"{clip.name}_{ending}" for ending in ("overlay.mp4", "masks.zip", "masks.jsonl"))
    empty = [None] * clip.num_frames
    write_film(film, clip, [a.record.prediction if a.record else empty for a in answers])
    _write_pngs(archive, clip, answers)
    shutil.copyfile(results, rles)
    return [film, archive, rles]


def _write_pngs(path: Path, clip: Clip, answers: Sequence[Answered]) -> None:
    given = [
        Answer(Expression(str(n), a.sentence), tuple(a.record.prediction), ())
        for n, a in enumerate(answers)
        if a.record is not None
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for entry in PngFolders().entries(clip, given):
            archive.writestr(entry.path, entry.content())
        words = "".join(f"{n}\t{a.sentence}\t{a.problem}\n" for n, a in enumerate(answers))
        archive.writestr(f"{clip.name}/sentences.tsv", words)
