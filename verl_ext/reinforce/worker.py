"""The driver process of an RL run (``python -m verl_ext.reinforce.worker``)."""

from __future__ import annotations

from verl_ext.recipe.context import active_recipe
from verl_ext.reinforce.launch import run


def main() -> None:
    run(active_recipe())


if __name__ == "__main__":
    main()
