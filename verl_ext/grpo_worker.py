"""The driver process of an RL run (``python -m verl_ext.grpo_worker``)."""

from __future__ import annotations

from verl_ext.context import active_recipe
from verl_ext.launch import run


def main() -> None:
    run(active_recipe())


if __name__ == "__main__":
    main()
