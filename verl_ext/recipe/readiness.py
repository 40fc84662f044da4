"""What training asks of a recipe beyond its own settings: files that it names, a policy that its method can train,
conversations for a supervised stage. Evaluation asks less, so none of this is a `rule`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.recipe.checks import check_paths
from verl_ext.recipe.model_size import HEAD_FOLDER

if TYPE_CHECKING:
    from verl_ext.recipe.schema import Recipe

SEG_TOKEN = "[SEG]"
TOKENIZER_FILES = ("tokenizer.json", "added_tokens.json", "tokenizer_config.json")
NEW_POLICY = "videoseg policy new --base QWEN3_VL_FOLDER --sam2 SAM2_WEIGHTS --out FOLDER"


def check_ready(recipe: Recipe) -> list[str]:
    """Why training by ``recipe`` cannot start on this machine; empty if it can. Loads nothing."""
    return [*check_paths(recipe), *_policy(recipe), *_conversations(recipe), *_environment(recipe)]


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
    sources = [(f"data[{i}]", source) for i, source in enumerate(r.data)]
    if r.trainer.eval_every:
        sources += [(f"val[{i}]", source) for i, source in enumerate(r.val)]
    for where, source in sources:
        if source.annotations is None:
            yield (
                f"{where}.annotations: null with stage: sft, which learns from conversations; name a file of them "
                "(`videoseg data segmentation` or `videoseg data cot` writes one), or leave the source out"
            )


def _environment(r: Recipe) -> Iterator[str]:
    if r.stage == "sft" and r.rollout.environment is not None:
        yield (
            f"rollout.environment: {r.rollout.environment} with stage: sft, which replays recorded conversations in "
            "the method's own environment; leave it out"
        )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
