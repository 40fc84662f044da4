"""Benchmarks from their YAML stanzas. A wrong key stops with its name; so does a scorer that does not exist."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_construction.readers import dataset_names
from eval.benchmarks.benchmark import Benchmark
from eval.results.record import check_name
from eval.scorers.grouping import GROUPINGS
from eval.scorers.missing import RULES
from rollout.errors import DataError
from rollout.text_files import read_text

STANZAS = Path(__file__).parent / "stanzas"
TYPES: dict[str, type] = {"groups": list, "frames": int, "protocol": dict, "published": dict}
"""Of the keys that are not text."""
OPTIONAL = ("scorer", "submission", "frames")
"""What a stanza may set to null."""


def benchmark_names() -> list[str]:
    """Every benchmark with a stanza."""
    return sorted(path.stem for path in STANZAS.glob("*.yaml"))


def load_benchmark(name_or_yaml: str | Path) -> Benchmark:
    """The benchmark of that name, or the one in the YAML file at that path (a name of its own is the file's).

    Raises DataError that names file and key: an unknown benchmark, key, scorer, grouping or data set, a wrong type.
    """
    name = str(name_or_yaml)
    path = Path(name) if name.endswith((".yaml", ".yml")) else STANZAS / f"{name}.yaml"
    if not path.is_file():
        raise DataError(f"no benchmark called {name!r}; there are {', '.join(benchmark_names())}, or give a YAML file")
    content = _read(path)
    known = [f.name for f in fields(Benchmark)]
    for key in content:
        if key not in known:
            raise DataError(f"{path}: unknown key {key!r}; known keys are {', '.join(known)}")
    for key in ("dataset", "split"):
        if not content.get(key):
            raise DataError(f"{path}: a benchmark needs {key!r}")
    benchmark = Benchmark(**{"name": path.stem, **_checked(path, content)})
    check_name(benchmark.name, f"{path}: name", nested=False)  # results lie in a folder of this name
    _check_names(path, benchmark)
    return benchmark


def _read(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(read_text(path))))
    except (OSError, ValueError, YAMLError) as error:
        raise DataError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a benchmark is a mapping with 'dataset' and 'split'")
    return {str(key): value for key, value in content.items()}


def _checked(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The same values in the types of the dataclass."""
    out = dict(content)
    for key, value in content.items():
        wanted = TYPES.get(key, str)
        if value is None and key in OPTIONAL:
            continue
        if not isinstance(value, wanted) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            raise DataError(f"{path}: {key} = {value!r}, wants {wanted.__name__}")
    out["groups"] = tuple(content.get("groups", ()))
    if out["dataset"].endswith((".yaml", ".yml")):
        out["dataset"] = str(path.parent / out["dataset"])  # a stanza of your own lies beside the benchmark's
    for method, values in content.get("published", {}).items():
        if not isinstance(values, dict) or not all(isinstance(v, int | float) for v in values.values()):
            raise DataError(f"{path}: published.{method} = {values!r}; wants metrics with numbers")
    return out


def _check_names(path: Path, benchmark: Benchmark) -> None:
    from eval.packagers.registry import packager_names
    from eval.scorers import scorer_names

    for group in benchmark.groups:
        if group not in GROUPINGS:
            raise DataError(f"{path}: no grouping {group!r}; there are {', '.join(GROUPINGS)}")
    if benchmark.missing not in ("", *RULES):
        raise DataError(f"{path}: missing = {benchmark.missing!r}; wants one of {', '.join(RULES)}")
    if benchmark.scorer is not None and benchmark.scorer not in scorer_names():
        raise DataError(f"{path}: no scorer {benchmark.scorer!r}; there are {', '.join(scorer_names())}")
    if benchmark.submission is not None and benchmark.submission not in packager_names():
        known = ", ".join(packager_names())
        raise DataError(f"{path}: no packager {benchmark.submission!r}; there are {known}, or leave 'submission' out")
    own_layout = benchmark.dataset.endswith((".yaml", ".yml"))
    if not own_layout and benchmark.dataset not in dataset_names():
        raise DataError(f"{path}: no data set {benchmark.dataset!r}; there are {', '.join(dataset_names())}")
