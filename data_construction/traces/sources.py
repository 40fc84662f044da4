"""From a trace back to its clip and ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_construction.readers import Dataset, load_stanza, open_dataset
from data_construction.traces.trace import Trace
from rollout.errors import DataError
from rollout.types import Expression, Sample


class Sources:
    """The data sets that traces are about, opened when the first trace asks for them.

    ``roots`` maps data set names (or stanza files) to folders; the name ``""`` stands for whatever a trace names.
    ``default`` is the data set and split of traces that name none (VTS-CoT records as released). The stanza of a data
    set that is not shipped, as of a sample, is the file of its name among ``roots`` and ``default``, else the one that
    the trace says it was made with.
    """

    def __init__(self, roots: Mapping[str, Path], default: tuple[str, str] = ("", "")) -> None:
        self._files = {load_stanza(name).name: name for name in (*roots, default[0]) if _is_file(name)}
        named = {file: name for name, file in self._files.items()}
        self.default = (named.get(default[0], default[0]), default[1])
        self.roots = {named.get(name, name): root for name, root in roots.items()}
        self._open: dict[tuple[str, str, str], Dataset] = {}

    @staticmethod
    def parse(given: Sequence[str], dataset: str = "", split: str = "") -> Sources:
        """From ``PATH`` or ``NAME=PATH``. Raises DataError for a folder or a stanza that is not there."""
        roots: dict[str, Path] = {}
        for item in given:
            name, folder = split_root(item)
            if name in roots:
                what = f"a folder for {name or 'every data set'} is given already, {roots[name]}"
                raise DataError(f"--root {item}: {what}; give each once")
            roots[name] = folder
            if not folder.is_dir():
                raise DataError(f"--root {item}: no folder {folder}; give PATH, or NAME=PATH for one of several")
        return Sources(roots, (dataset, split))

    def dataset(self, trace: Trace) -> Dataset:
        """The split that the trace is about. Raises DataError if there is no root for it or it cannot be opened."""
        name, split = trace.dataset or self.default[0], trace.split or self.default[1]
        key = (name, split, str(trace.raw.get("stanza", "")))
        if key not in self._open:
            root = self.roots.get(name, self.roots.get(""))
            if root is None or not name or not split:
                known = ", ".join(self.roots) or "none given"
                raise DataError(
                    f"trace {trace.id}: data set {name!r}, split {split!r}: no folder known for it (--root: {known}); "
                    f"add --root {name or 'NAME'}=PATH" + ("" if name and split else ", --dataset and --split")
                )
            self._open[key] = open_dataset(self._stanza(trace, name, root), root, split)
        return self._open[key]

    def _stanza(self, trace: Trace, name: str, root: Path) -> str:
        """What to open the trace's data set by. Raises DataError if its stanza is not where the trace says."""
        if name in self._files or "stanza" not in trace.raw:
            return self._files.get(name, name)
        file = root / str(trace.raw["stanza"])  # An absolute path stays as it is.
        if not _is_file(str(file)) or not file.is_file():
            raise DataError(
                f"trace {trace.id}: made with the stanza {file}, which is not there; "
                f"give it as --root {name}.yaml={root}"
            )
        return str(file)

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


def split_root(given: str) -> tuple[str, Path]:
    """(name, folder) of ``NAME=PATH``, or ("", folder) of ``PATH``. Folders may have the sign in their names."""
    parts = given.split("=")
    splits = [("=".join(parts[:n]), Path("=".join(parts[n:]))) for n in range(len(parts))]
    return next((s for s in splits if s[1].is_dir()), splits[1 if len(splits) > 1 else 0])


def _is_file(name: str) -> bool:
    """Whether a data set is named by its stanza's file."""
    return name.endswith((".yaml", ".yml"))
