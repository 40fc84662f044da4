"""LLaMA-Factory's ShareGPT: ``<name>.json`` and its entry in ``dataset_info.json``.

LLaMA-Factory cannot be told the size of one picture, so pictures are copied at the size the policy sees them (boxes
are in pixels of that size); paths are relative to the folder, which is then its ``dataset_dir``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_construction.atomic import write_json
from data_construction.export.formats import export_format
from data_construction.export.images import ImageStore, Mode
from data_construction.export.lengths import Longest
from data_construction.export.parts import COLUMN, renamed, rest_of, together
from data_construction.json_list_writer import JsonListWriter
from data_construction.readers.files import read_json
from data_construction.traces import Trace
from data_construction.traces.json_list import read_json_list
from rollout.errors import DataError
from rollout.types import Sample

INFO = "dataset_info.json"
ROLES = {name: name for name in ("system", "human", "gpt")}
ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "images": "images"},
    "tags": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "system_tag": "system",
    },
}


@export_format("sharegpt")
class ShareGPT:
    """``OUT/<name>.json``, ``OUT/dataset_info.json`` and ``OUT/images``."""

    default_images: Mode = "copy"

    def writer(self, out: Path, name: str, images: ImageStore) -> _Writer:
        if images.mode == "embed":
            raise DataError("ShareGPT files hold paths: give --images copy or link, not embed")
        return _Writer(out, name, images)

    def reads(self, path: Path) -> bool:
        return path.suffix == ".json"

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """One item in memory at a time."""
        for n, item in enumerate(read_json_list(path)):
            where = f"{path}, item {n}"
            try:
                turns = [(c["from"], c["value"]) for c in item["conversations"]]
            except (KeyError, TypeError) as e:
                raise DataError(f"{where}: not a ShareGPT conversation ({type(e).__name__}: {e})") from e
            yield together(renamed(turns, ROLES, where), item.get(COLUMN), where)


class _Writer:
    def __init__(self, out: Path, name: str, images: ImageStore) -> None:
        self.out, self.name, self.images = out, name, images
        self._longest = Longest(images.sizes.factor)
        _known(out)  # A file that cannot be joined is told before anything is written.
        self._list = JsonListWriter(out / f"{name}.json")

    def add(self, trace: Trace, sample: Sample) -> None:
        turns = renamed(trace.conversations, ROLES, f"trace {trace.id}")
        images = self.images.images(trace, sample)
        pictures = [Path(i.path).absolute() for i in images]
        here = self.out.absolute()
        shown, whole = self.images.folder.absolute(), (sample.clip.height, sample.clip.width)
        pairs = zip(images, pictures, strict=True)
        self._longest.add(turns, [(i.height, i.width) if p.is_relative_to(shown) else whole for i, p in pairs])
        self._list.add(
            {
                "conversations": [{"from": who, "value": value} for who, value in turns],
                "images": [str(p.relative_to(here)) if p.is_relative_to(here) else str(p) for p in pictures],
                COLUMN: rest_of(trace),
            }
        )

    def finish(self) -> list[Path]:
        """The entry joins those of other data sets in the same folder."""
        info, known = self.out / INFO, _known(self.out)
        path = self._list.finish()
        write_json(info, {**known, self.name: {"file_name": path.name, **ENTRY}})
        return [path, info]

    def notes(self) -> list[str]:
        return [self._longest.words()]

    def abort(self) -> None:
        self._list.abort()


def _known(folder: Path) -> dict[str, Any]:
    """``dataset_info.json`` as it is; empty if there is none. Raises DataError if it is no mapping."""
    info = folder / INFO
    known = read_json(info) if info.is_file() else {}
    if not isinstance(known, dict):
        raise DataError(f"{info}: must be a mapping of data sets; remove it or give another folder")
    return known
