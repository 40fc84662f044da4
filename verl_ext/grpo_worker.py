"""The driver process of an RL run (``python -m verl_ext.grpo_worker``)."""

from __future__ import annotations

import sys

from verl_ext.context import active_recipe
from verl_ext.launch import run
from verl_ext.supervise import STOPPED_EARLY, stop_requested


def main() -> int:
    recipe = active_recipe()
    run(recipe)
    return STOPPED_EARLY if stop_requested(recipe.output_dir) else 0


if __name__ == "__main__":
    sys.exit(main())
