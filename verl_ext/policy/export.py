"""From FSDP shards to a policy folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from verl_ext.policy.checkpoint import has_head, load_head_config, write_policy_folder
from verl_ext.policy.head import is_head_parameter
from verl_ext.recipe.asking import PROMPTS_FILE, record_prompts
from verl_ext.recipe.context import RECIPE_ENV, active_recipe


def export_policy(engine: Any, folder: Path) -> None:
    """Gather ``engine``'s parameters (a collective call) and write them on rank 0, atomically."""
    state = engine.full_state()
    if torch.distributed.get_rank() == 0:
        config = engine.model_config
        source = config.local_path
        segmenter = load_head_config(source) if has_head(source) else None
        lm = {n: t for n, t in state.items() if not is_head_parameter(n)}
        head = {n: t for n, t in state.items() if is_head_parameter(n)}
        write_policy_folder(
            folder, config.hf_config, lm, head or None, segmenter, config.processor, config.generation_config, _asked()
        )
    torch.distributed.barrier()


def _asked() -> dict[str, str]:
    """The words of this run, so that whoever evaluates the policy asks in them."""
    return {PROMPTS_FILE: record_prompts(active_recipe())} if os.environ.get(RECIPE_ENV) else {}
