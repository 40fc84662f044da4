"""verl's supervised data: a parquet file that its ``MultiTurnSFTDataset`` and our own recipes read.

Columns: ``messages`` [{role, content}] with ``<image>`` placeholders, ``images`` (what qwen-vl-utils takes: a path and
the size to show it at, or bytes), ``id`` and ``method`` for filtering, ``trace`` with the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_construction.export.formats import export_format
from data_construction.export.images import Image, ImageStore, Mode
from data_construction.export.parts import COLUMN, renamed, rest_of, together
from data_construction.partials import partial_of
from data_construction.traces import Trace
from rollout.errors import DataError, EnvironmentMismatchError
from rollout.types import Sample

ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
BACK = {ours: theirs for theirs, ours in ROLES.items()}
ROWS_PER_GROUP = {"link": 512, "copy": 512, "embed": 32}
"""Rows that are held in memory and written together."""


@export_format("verl")
class VerlParquet:
    """``OUT/<name>.parquet``."""

    default_images: Mode = "link"

    def writer(self, out: Path, name: str, images: ImageStore) -> _Writer:
        return _Writer(out / f"{name}.parquet", images)

    def reads(self, path: Path) -> bool:
        return path.suffix == ".parquet"

    def read(self, path: Path) -> Iterator[dict[str, Any]]:
        """One row group in memory at a time."""
        pa, parquet = _arrow()
        try:
            file = parquet.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as e:
            raise DataError(f"{path}: cannot be read as parquet ({e})") from e
        missing = [c for c in ("messages", COLUMN) if c not in file.schema_arrow.names]
        if missing:
            raise DataError(f"{path}: no column {missing[0]!r}; only files that `videoseg data export` wrote come back")
        row = 0
        for batch in file.iter_batches(batch_size=64, columns=["messages", COLUMN]):
            for line in batch.to_pylist():
                where = f"{path}, row {row}"
                row += 1
                turns = [(m["role"], m["content"]) for m in line["messages"]]
                yield together(renamed(turns, BACK, where), line[COLUMN], where)


class _Writer:
    def __init__(self, path: Path, images: ImageStore) -> None:
        pa, parquet = _arrow()
        self.path, self.images = path, images
        self.partial = partial_of(path)
        picture = {"bytes": pa.binary(), "path": pa.string()}
        if images.mode != "embed":
            picture = {"image": pa.string(), "resized_height": pa.int32(), "resized_width": pa.int32()}
        message = pa.struct({"role": pa.string(), "content": pa.string()})
        columns = {"messages": pa.list_(message), "images": pa.list_(pa.struct(picture))}
        self._schema = pa.schema({**columns, **dict.fromkeys(("id", "method", COLUMN), pa.string())})
        self._table = pa.Table
        self._file = parquet.ParquetWriter(self.partial, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, trace: Trace, sample: Sample) -> None:
        turns = renamed(trace.conversations, ROLES, f"trace {trace.id}")
        self._rows.append(
            {
                "messages": [{"role": who, "content": value} for who, value in turns],
                "images": [self._picture(i) for i in self.images.images(trace, sample)],
                "id": trace.id,
                "method": trace.method,
                COLUMN: rest_of(trace),
            }
        )
        if len(self._rows) >= ROWS_PER_GROUP[self.images.mode]:
            self._flush()

    def finish(self) -> list[Path]:
        self._flush()
        self._file.close()
        os.replace(self.partial, self.path)
        return [self.path]

    def abort(self) -> None:
        self._file.close()
        self.partial.unlink(missing_ok=True)

    def _picture(self, image: Image) -> dict[str, Any]:
        if self.images.mode == "embed":
            return {"bytes": image.content, "path": None}
        path = str(Path(image.path).absolute())
        return {"image": path, "resized_height": image.height, "resized_width": image.width}

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise EnvironmentMismatchError("parquet files need the package pyarrow: pip install pyarrow") from e
    return pyarrow, pyarrow.parquet
