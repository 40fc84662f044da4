"""Tokens a second of ``trainer.mode``'s three kinds, on the same machine in one call:
``python benchmarks/async_modes.py --json FILE``.

Each is a run of `benchmarks/grpo_step.py`, one after the other, on the same clips and policy; the published shape on
two GPUs by ``--device cuda --policy 2b --gpus 2``. ``sync`` and ``colocate_async`` take all GPUs for both,
``separate_async`` half of them for each (on a CPU: one process for each). The first step, which warms up and fills the
queue, is left out.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import grpo_step
from benchmarks.common import environment_facts, write_json

MODES = ("sync", "colocate_async", "separate_async")


def settings_of(mode: str, gpus: int) -> list[str]:
    """Of the recipe: ``gpus`` for actor and rollout together, 0 on a CPU."""
    apart = mode == "separate_async"
    rollout = max(1, gpus // 2) if apart else 0
    out = [f"trainer.mode={mode}", f"trainer.rollout_processes={rollout}"]
    if gpus:
        out += [f"trainer.gpus_per_node={gpus}", f"trainer.actor_processes={gpus - rollout}"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--policy", choices=["tiny", "2b"], default="tiny", help="shape of the random policy")
    parser.add_argument("--checkpoint", help="a policy folder to use instead of a random one")
    parser.add_argument("--gpus", type=int, default=2, help="of the machine; not read on a CPU")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--work", default="runs/benchmarks/async_modes", help="folder for data, policy and runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    args = parser.parse_args()
    gpus = args.gpus if args.device == "cuda" else 0
    if args.device == "cuda" and gpus < 2 and "separate_async" in args.modes:
        parser.error(f"--gpus {gpus}: separate_async takes two or more; leave it out of --modes")
    given, found = list(args.set), dict[str, Any]()
    for mode in args.modes:
        args.set, args.rows_set = [*settings_of(mode, gpus), *given], []
        figures = grpo_step.run(args, "group")
        found[mode] = figures["throughput"] | {"step_seconds": figures["step_seconds"], "steps": figures["steps"]}
        if "sync" in found:
            found[mode]["ratio"] = found[mode]["tokens_per_second"] / found["sync"]["tokens_per_second"]
        print(mode, {k: v for k, v in found[mode].items() if k != "step_seconds"}, flush=True)
        if args.json:  # after each: a machine may go before the last
            facts = {"benchmark": "async_modes", **environment_facts(args.device), "policy": args.policy, "gpus": gpus}
            write_json(args.json, {**facts, "settings": figures["settings"], **found})


if __name__ == "__main__":
    main()
