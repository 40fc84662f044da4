"""A run's checkpoints on disk: the newest policy, which are kept, and whether a recipe may continue them.

``output_dir/checkpoints/global_step_N`` holds verl's shards and ``policy/``. Imports no torch.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_construction.atomic import write_whole
from rollout.errors import RecipeError, WorkerError

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

logger = logging.getLogger(__name__)

POLICY_FOLDER = "policy"
"""Under the recipe's ``output_dir``: the newest trained policy (a link into ``checkpoints``)."""
CHECKPOINTS = "checkpoints"
TRACKER = "latest_checkpointed_iteration.txt"
"""verl's own file beside them."""
_STEP = "global_step_"
_SHARD = re.compile(r"model_world_size_(\d+)_rank_\d+\.pt")

FIXED = (
    "stage",
    "method",
    "device",
    "seed",
    "policy.path",
    "policy.lora.rank",
    "policy.lora.alpha",
    "policy.freeze_vision",
    "data",
    "optim.lr",
    "optim.decoder_lr",
    "optim.projection_lr",
    "optim.betas",
    "optim.weight_decay",
    "trainer.prompts_per_step",
    "trainer.shuffle",
    "trainer.mode",
)
"""What a continued run cannot change: weights, optimiser state, reference and the place in the data are its start's
(an asynchronous mode saves prompts that were taken from the data and are not learnt from yet)."""
QUEUED = ("rollout.group_size",)
"""Nor this in an asynchronous mode, nor where its data lie: dialogues that the checkpoint holds have both."""
MOVABLE = ("root", "annotations")
"""Of a data source: paths, which may differ on another machine."""


def step_folder(out: Path, step: int) -> Path:
    """The checkpoint of ``step``."""
    return out / CHECKPOINTS / f"{_STEP}{step}"


def step_folders(out: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints under ``out``, oldest first."""
    found = (out / CHECKPOINTS).glob(f"{_STEP}*")
    return sorted((int(p.name.removeprefix(_STEP)), p) for p in found if p.name.removeprefix(_STEP).isdigit())


def tracked_step(out: Path) -> int | None:
    """The step that a continued run starts from: of the newest checkpoint that was saved to its end; None without."""
    tracker = out / CHECKPOINTS / TRACKER
    text = tracker.read_text().strip() if tracker.is_file() else ""
    return int(text) if text.isdigit() and step_folder(out, int(text)).is_dir() else None


def newest_policy(out: Path) -> Path:
    """The policy of the newest whole checkpoint under ``out``.

    Raises:
        WorkerError: there is none.
    """
    newest = tracked_step(out)
    for step, folder in reversed(step_folders(out)):
        if (newest is None or step <= newest) and (folder / POLICY_FOLDER / "config.json").is_file():
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
    """See that verl's tracker names a checkpoint: verl (0.9.1) would otherwise start anew, beside those there are.

    Reinforcement writes it in place, so a disk that is full just then leaves it empty; and folders are moved without
    it. It is then set to the newest whole checkpoint. Nothing happens if none was ever saved to its end.

    Raises:
        RecipeError: it names no checkpoint, and none is whole.
    """
    tracker = out / CHECKPOINTS / TRACKER
    if tracked_step(out) is not None:
        return
    whole = [step for step, folder in step_folders(out) if _is_whole(folder)]
    if whole:
        logger.warning("%s names no checkpoint; going on from the newest whole one, step %d", tracker, whole[-1])
        write_whole(tracker, str(whole[-1]))
    elif tracker.exists():
        raise RecipeError(
            f"--resume: {tracker} names no checkpoint that is there, and none beside it is whole; write the step to "
            "continue from into it, or give another output_dir for a new run"
        )


def _is_whole(folder: Path) -> bool:
    """By the files that are saved last: the data's place, of the run or of each process that wrote it."""
    if (folder / "data.pt").is_file():
        return True
    sizes = [int(found[1]) for f in folder.glob("model_*.pt") if (found := _SHARD.match(f.name))]
    return (folder / "data_0.pt").is_file() and all(
        (folder / f"data_{rank}.pt").is_file() for rank in range(max(sizes, default=1))
    )


def remove_old(out: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints (all are kept if it is 0), policies included.

    The newest is the one that the tracker names, and is never deleted. Folders after it are halves of a save that was
    killed, or steps that the run goes through again: they go first.
    """
    newest = tracked_step(out)
    if newest is None:
        return
    later = [folder for step, folder in step_folders(out) if step > newest]
    older = [folder for step, folder in step_folders(out) if step <= newest][:-keep] if keep else []
    for folder in (*later, *older):
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
    ahead = now["trainer"]["mode"] != "sync"
    for key in (*FIXED, *(QUEUED if ahead else ())):
        old, new = (_at(settings, key, () if ahead else MOVABLE) for settings in (before, now))
        moved = key == "policy.path" and not Path(old).exists()  # as a folder may be, with its run
        if old != new and not moved:
            yield key, old, new


def _at(settings: dict[str, Any], key: str, movable: Sequence[str]) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = value[part]
    if key == "data":
        return [{k: v for k, v in source.items() if k not in movable} for source in value]
    return value
