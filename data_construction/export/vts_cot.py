"""VTS-CoT as released (SPEC 2.7): ``vts_cot_<name>.json``, with ``rl_annotations_<name>.json`` beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_construction.cot.released import released
from data_construction.export.formats import export_format
from data_construction.export.images import ImageStore, Mode
from data_construction.export.records import record_of
from data_construction.json_list_writer import JsonListWriter
from data_construction.readers.records import frame_names, rl_annotation
from data_construction.traces import Trace
from rollout.errors import DataError
from rollout.types import Sample


@export_format("vts_cot")
class VTSCoT:
    """What ``data.0.annotations`` of a supervised recipe reads. It keeps the record only, so there is no way back."""

    default_images: Mode = "link"

    def writer(self, out: Path, name: str, images: ImageStore) -> _Writer:
        return _Writer(out, name)

    def reads(self, path: Path) -> bool:
        return False

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        raise DataError(f"{path}: VTS-CoT records do not keep the whole trace")


class _Writer:
    def __init__(self, out: Path, name: str) -> None:
        self._lists = [JsonListWriter(out / f"{kind}_{name}.json") for kind in ("vts_cot", "rl_annotations")]

    def add(self, trace: Trace, sample: Sample) -> None:
        record = record_of(trace, frame_names(sample.clip)).to_dict()
        # boxes and seconds mean nothing without the one, masks would be others without the other
        kept = {key: record[key] for key in ("shown", "mask_anno_id") if key in record}
        self._lists[0].add(released(record) | kept)
        given = trace.raw.get("rl_annotation")
        if not given and sample.masklets is not None:
            given = rl_annotation(sample, sample.masklets.existence().astype(bool))
        if given:
            self._lists[1].add([given])

    def finish(self) -> list[Path]:
        return [one.finish() for one in self._lists]

    def abort(self) -> None:
        for one in self._lists:
            one.abort()
