"""From a trace back to its clip and ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_construction.readers import Dataset, open_dataset
from data_construction.traces.trace import Trace
from rollout.errors import DataError
from rollout.types import Expression, Sample


class Sources:
    """The data sets that traces are about, opened when the first trace asks for them.

    ``roots`` maps data set names (or stanza files) to folders; the name ``""`` stands for whatever a trace names.
    ``default`` is the data set and split of traces that name none (VTS-CoT records as released).
    """

    def __init__(self, roots: Mapping[str, Path], default: tuple[str, str] = ("", "")) -> None:
        self.roots, self.default = dict(roots), default
        self._open: dict[tuple[str, str], Dataset] = {}

    @staticmethod
    def parse(given: Sequence[str], dataset: str = "", split: str = "") -> Sources:
        """From ``PATH`` or ``NAME=PATH``. Raises DataError for a folder that is not there."""
        roots: dict[str, Path] = {}
        for item in given:
            name, found, folder = item.rpartition("=")
            roots[name if found else ""] = Path(folder)
            if not Path(folder).is_dir():
                raise DataError(f"--root {item}: no folder {folder}; give PATH, or NAME=PATH for one of several")
        return Sources(roots, (dataset, split))

    def dataset(self, trace: Trace) -> Dataset:
        """The split that the trace is about. Raises DataError if there is no root for it or it cannot be opened."""
        name, split = trace.dataset or self.default[0], trace.split or self.default[1]
        if (name, split) not in self._open:
            root = self.roots.get(name, self.roots.get(""))
            if root is None or not name or not split:
                known = ", ".join(self.roots) or "none given"
                raise DataError(
                    f"trace {trace.id}: data set {name!r}, split {split!r}: no folder known for it (--root: {known}); "
                    f"add --root {name or 'NAME'}=PATH" + ("" if name and split else ", --dataset and --split")
                )
            self._open[name, split] = open_dataset(name, root, split)
        return self._open[name, split]

    def sample(self, trace: Trace) -> Sample:
        """Clip, expression and ground truth. Raises DataError (trace and clip named) if the data set lacks them."""
        dataset = self.dataset(trace)
        if trace.clip not in dataset.index:
            raise DataError(
                f"trace {trace.id}: data set {dataset.name}, split {dataset.split} at {dataset.root} has no clip "
                f"{trace.clip!r}; give the root that the trace was made from"
            )
        known = dataset.index[trace.clip].expressions
        if trace.expression_id in known:
            return dataset.get(trace.clip, trace.expression_id)
        if trace.expression_id:
            raise DataError(
                f"trace {trace.id}: clip {trace.clip} has no expression {trace.expression_id!r}; it has {[*known]}"
            )
        ids = tuple(str(a) for a in trace.raw.get("anno_id", ()))
        same = [e for e in known.values() if e.text == trace.text and e.anno_ids == ids]
        expression = same[0] if same else Expression("trace", trace.text, ids)
        return Sample(dataset.clip(trace.clip), expression, dataset.masklets(trace.clip, ids))
