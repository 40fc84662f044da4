"""What training asks of a recipe beyond its own settings: files that it names, data sets that are whole, a policy
that its method can train, conversations for a supervised stage. Evaluation asks less, so none of this is a `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.recipe.asking import ROW_MODELS, cell_of_policy, model_type
from verl_ext.recipe.checks import check_paths
from verl_ext.recipe.loggers import logger_problem
from verl_ext.recipe.model_size import HEAD_FOLDER
from verl_ext.recipe.policy_processor import processor_problems
from verl_ext.recipe.prompt_room import prompt_problems
from verl_ext.recipe.trace_grid import grid_problem

if TYPE_CHECKING:
    from verl_ext.recipe.schema import DataSource, Recipe

SEG_TOKEN = "[SEG]"
TOKENIZER_FILES = ("tokenizer.json", "added_tokens.json", "tokenizer_config.json")
NEW_POLICY = "videoseg policy new --base QWEN3_VL_FOLDER --sam2 SAM2_WEIGHTS --out FOLDER"


def check_ready(recipe: Recipe) -> list[str]:
    """Why training by ``recipe`` cannot start on this machine; empty if it can. Loads nothing."""
    found = [*check_paths(recipe), *_model_files(recipe), *_data_files(recipe), *_policy(recipe)]
    found += [*_conversations(recipe), *_environment(recipe), *_box_side(recipe), *_rows(recipe)]
    found += [*processor_problems(recipe), *prompt_problems(recipe)]
    return [*found, *_machine(recipe), *_loggers(recipe)]


def _used_sources(r: Recipe) -> list[tuple[str, DataSource]]:
    """Where in the recipe each source stands that training will open, and the source."""
    sources = [(f"data[{i}]", source) for i, source in enumerate(r.data)]
    return sources + [(f"val[{i}]", source) for i, source in enumerate(r.val) if r.trainer.eval_every]


def _data_files(r: Recipe) -> Iterator[str]:
    """The trainer would say the same when it reads them: a minute later, from another process."""
    from data_construction.readers.stanza import load_stanza
    from rollout.errors import DataError

    for where, source in _used_sources(r):
        root = Path(source.root)
        if not root.is_dir():
            continue  # said by check_paths
        try:
            files = load_stanza(source.dataset).split(source.split, root)
        except DataError as e:
            yield f"{where}: {e}"
            continue
        wanted = [files.annotations, files.masks if files.masks_required else None]
        for file in (root / name for name in wanted if name is not None):
            if not file.exists():
                yield (
                    f"{where}.root: {file} does not exist; split {source.split} of data set {source.dataset} is read "
                    f"from it: put it there or give {where.replace('[', '.').replace(']', '')}.root=..."
                )


def _model_files(r: Recipe) -> Iterator[str]:
    from rewards.model_files import check_folder, check_sam2
    from rollout.errors import DataError

    folder = Path(r.policy.path)
    looked: list[tuple[str, Callable[[Path], None], Path]] = [
        ("policy.path", check_folder, folder),
        ("policy.path", check_folder, folder / HEAD_FOLDER),
    ]
    if r.pool.checkpoint is not None and r.stage == "grpo" and Path(r.pool.checkpoint).exists():
        looked.append(("pool.checkpoint", partial(check_sam2, preset=r.pool.preset), Path(r.pool.checkpoint)))
    for key, look, path in looked:
        try:
            look(path)
        except DataError as e:
            yield f"{key}: {e}"


def _policy(r: Recipe) -> Iterator[str]:
    folder = Path(r.policy.path)
    if r.method != "videoseg_o3" or not folder.exists():
        return
    remedy = f"make a [SEG] policy of a Qwen3-VL folder: {NEW_POLICY}"
    if not (folder / HEAD_FOLDER / "config.json").is_file():
        yield f"policy.path: {folder} has no {HEAD_FOLDER}/config.json, but method is videoseg_o3; {remedy}"
    elif not any(f'"{SEG_TOKEN}"' in _text(folder / name) for name in TOKENIZER_FILES):
        yield f"policy.path: the tokenizer in {folder} has no {SEG_TOKEN} token, but method is videoseg_o3; {remedy}"


def _conversations(r: Recipe) -> Iterator[str]:
    if r.stage != "sft":
        return
    for where, source in _used_sources(r):
        if source.annotations is None:
            yield (
                f"{where}.annotations: null with stage: sft, which learns from conversations; name a file of them "
                "(`videoseg data segmentation` or `videoseg data cot` writes one), or leave the source out"
            )
        elif r.has_boxes and Path(source.annotations).is_file():
            yield from _first_trace(r, where, Path(source.annotations))


def _first_trace(r: Recipe, where: str, file: Path) -> Iterator[str]:
    """Whether its boxes are the recipe's; all of them are looked at when they are read."""
    from data_construction.export.records import read_records
    from rollout.errors import DataError

    try:
        record = next(read_records(file), None)
    except DataError:
        return  # said where the file is read
    if record is not None and (problem := grid_problem(r, record)):
        yield f"{where}.annotations: {file}: trace of {record.video_name}: {problem}"


REPLAYED = (None, "combined_answers")
"""Environments of recorded conversations; None: the method's own."""


def _environment(r: Recipe) -> Iterator[str]:
    if r.stage == "sft" and r.rollout.environment not in REPLAYED:
        yield (
            f"rollout.environment: {r.rollout.environment} with stage: sft, which replays recorded conversations in "
            "the method's own environment, or in combined_answers; leave it out"
        )


def _box_side(r: Recipe) -> Iterator[str]:
    cell, side = cell_of_policy(r.policy.path), r.rollout.box_side
    if r.has_boxes and side % cell:
        yield (
            f"rollout.box_side: {side} is not a multiple of {cell}, a cell of this policy's vision tower "
            f"({model_type(r.policy.path)}); take {max(1, round(side / cell)) * cell}"
        )


def _rows(r: Recipe) -> Iterator[str]:
    kind = model_type(r.policy.path)
    if r.policy.packing != "none" and kind and kind not in ROW_MODELS:
        yield (
            f"policy.packing: {r.policy.packing}, and the policy is a {kind}: rows are written for "
            f"{' and '.join(ROW_MODELS)}; set policy.packing=none"
        )


def _machine(r: Recipe) -> Iterator[str]:
    from rollout.ray_env import is_in_rays_cache, socket_problem

    if is_in_rays_cache(r.output_dir):
        yield (
            f"output_dir: {r.output_dir} lies in Ray's copy of the job's --working-dir; the next job does not see it: "
            "--resume would begin anew; give an absolute folder that all machines share"
        )
    if r.stage == "grpo" and (problem := socket_problem()):
        yield problem


def _loggers(r: Recipe) -> Iterator[str]:
    """A tracker that is not there, or that asks for a key, would end the run after its processes have started."""
    for name in r.trainer.loggers:
        if problem := logger_problem(name):
            yield f"trainer.loggers: {problem}; or leave {name} out"


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
