#!/usr/bin/env bash
# verl 0.9.1, GRPO's advantage (`compute_grpo_outcome_advantage`) of a group whose rewards are all equal.
#
# Guess: reward minus mean is 0, so a group without contrast teaches nothing, whatever epsilon divides it.
#
# Seen: in float32 the mean of n equal rewards is often not that reward. The rest, some 1e-7, is divided by a standard
# deviation of the same size + 1e-6, and every rollout of the group gets the same advantage: 0.056 for 8 x 0.7, 0.32
# for 15 x 2.7. Above 0 or below it: that depends on the digits of the reward and the size of the group alone.
#
# Matters to: RL with rewards that are sums of fractions (0.1 for the format, 0.7 for an IoU): groups that all earn
# the same, common late in training or when all fail alike, push the policy by noise; filters on `advantage == 0` miss
# them. Set the advantage of a group to 0 where its largest and smallest reward are equal.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 numpy==2.3.5 ray==2.60.0 tensordict==0.10.0 transformers==5.10.4 \
    omegaconf==2.3.1 codetiming==1.4.0
"$room/venv/bin/pip" install -q --no-deps verl==0.9.1
cd "$room"
venv/bin/python - <<'PY'
import sys

import numpy as np
import torch
import verl
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage


def advantages(reward, rollouts):
    """Of one group, every rollout of which has one token and this reward."""
    rewards = torch.full((rollouts, 1), reward)
    group = np.array(["prompt"] * rollouts, dtype=object)
    return compute_grpo_outcome_advantage(rewards, torch.ones(rollouts, 1), group)[0][:, 0]


print("verl", verl.__version__, "torch", torch.__version__)
print("8 rollouts of 0.7:", advantages(0.7, 8).tolist())
sizes, rewards = range(2, 17), [tenths / 10 for tenths in range(1, 31)]
size_of = {(r, n): advantages(r, n).abs().max().item() for n in sizes for r in rewards}
worst = max(size_of, key=size_of.get)
some = sum(v > 0 for v in size_of.values())
print(some, "of", len(size_of), "groups of equal rewards (0.1 to 3.0, 2 to 16 rollouts)")
print(f"have an advantage; the largest is {size_of[worst]:.3f}, of {worst[1]} rollouts of {worst[0]}")
still = size_of[worst] > 0.01
print("as found" if still else "CHANGED: equal rewards have advantages of 0")
sys.exit(0 if still else 1)
PY
