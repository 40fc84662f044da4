"""A run's checkpoints on disk: the newest policy, which are kept, and whether a recipe may continue them.

``output_dir/checkpoints/global_step_N`` holds verl's shards and, for reinforcement, ``policy/``. Imports no torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import RecipeError, WorkerError

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

POLICY_FOLDER = "policy"
"""Under the recipe's ``output_dir``: the newest trained policy (a folder, or a link into ``checkpoints``)."""
CHECKPOINTS = "checkpoints"
TRACKER = "latest_checkpointed_iteration.txt"
"""verl's own file beside them."""
_STEP = "global_step_"

FIXED = (
    "stage",
    "method",
    "device",
    "policy.path",
    "policy.lora.rank",
    "policy.lora.alpha",
    "policy.freeze_vision",
    "optim.lr",
    "optim.decoder_lr",
    "optim.projection_lr",
    "optim.betas",
    "optim.weight_decay",
    "trainer.actor_processes",
)
"""What a continued run cannot change: shards, optimiser state and reference are those of its start."""


def step_folders(out: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints under ``out``, oldest first."""
    found = (out / CHECKPOINTS).glob(f"{_STEP}*")
    return sorted((int(p.name.removeprefix(_STEP)), p) for p in found if p.name.removeprefix(_STEP).isdigit())


def newest_policy(out: Path) -> Path:
    """The policy of the newest checkpoint under ``out``.

    Raises:
        WorkerError: there is none.
    """
    for _, folder in reversed(step_folders(out)):
        if (folder / POLICY_FOLDER / "config.json").is_file():
            return folder / POLICY_FOLDER
    raise WorkerError(f"{out / CHECKPOINTS} holds no policy: the run ended before its first checkpoint; see train.log")


def link_newest_policy(out: Path) -> None:
    """Point ``out/policy`` at the newest policy; a reader sees the old or the new one. A real folder is left alone."""
    link = out / POLICY_FOLDER
    if link.is_dir() and not link.is_symlink():
        return
    scratch = out / f".{POLICY_FOLDER}.link"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(newest_policy(out).relative_to(out), target_is_directory=True)
    os.replace(scratch, link)


def repair_tracker(out: Path) -> None:
    """verl (0.9.1) writes the number of the newest checkpoint in place: a disk that is full just then leaves it empty.

    It is then set to the newest checkpoint that is whole.
    """
    tracker = out / CHECKPOINTS / TRACKER
    if not tracker.is_file() or tracker.read_text().strip().isdigit():
        return
    whole = [step for step, folder in step_folders(out) if (folder / "data.pt").is_file()]  # saved last
    if whole:
        tracker.write_text(str(whole[-1]))
    else:
        tracker.unlink()


def remove_old(out: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, policies included (verl leaves those, 8 GB each at 2B)."""
    for _, folder in step_folders(out)[:-keep] if keep else []:
        shutil.rmtree(folder, ignore_errors=True)


def check_continues(before: Recipe, now: Recipe, out: Path) -> None:
    """May ``now`` go on from what ``before`` left in ``out``?

    Raises:
        RecipeError: it changes a setting that a checkpoint fixes, and that would be ignored or fail later.
    """
    changed = list(_changes(asdict(before), asdict(now)))
    if not changed:
        return
    learnt = out / POLICY_FOLDER
    start = f" from what was learnt: policy.path={learnt}" if learnt.exists() else ""
    lines = [f"  - {key}: {old!r} there, {new!r} now" for key, old, new in changed]
    raise RecipeError(
        "\n".join(
            [
                f"--resume: the checkpoints in {out} were written with other settings",
                *lines,
                f"give the old values, or another output_dir for a new run{start}",
            ]
        )
    )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in FIXED:
        old, new = _at(before, key), _at(now, key)
        moved = key == "policy.path" and not Path(old).exists()  # as a folder may be, with its run
        if old != new and not moved:
            yield key, old, new


def _at(settings: dict[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value[part]
    return value
