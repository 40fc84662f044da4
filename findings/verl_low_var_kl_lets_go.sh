#!/usr/bin/env bash
# verl 0.9.1, `kl_penalty(..., "low_var_kl")` (k3), the usual KL loss of GRPO recipes.
#
# Guess: the farther a token's probability falls below the reference's, the harder the penalty pulls it back; the
# clamps in there only guard against overflow (the exponent is held within 20).
#
# Seen: the penalty itself is held at 10, which r - log r - 1 reaches at r = 13.6. Up to there the gradient grows to
# 12.6; beyond, it is exactly 0: a token that became 14 times rarer than in the reference is never called back.
# "low_var_kl+" has a gradient there, that of k2.
#
# Matters to: who trusts the KL loss to keep a policy near its reference: the tokens that drift most are those it lets
# go, and the logged loss looks bounded and calm. Use "low_var_kl+" or "k2", or watch the share of tokens at 10.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 numpy==2.3.5 ray==2.60.0 tensordict==0.10.0 transformers==5.10.4 \
    omegaconf==2.3.1 codetiming==1.4.0
"$room/venv/bin/pip" install -q --no-deps verl==0.9.1
cd "$room"
venv/bin/python - <<'PY'
import math
import sys

import torch
import verl
from verl.trainer.ppo.core_algos import kl_penalty


def pull(times_rarer, form):
    """The penalty of a token that is so much rarer than in the reference, and its gradient in the log-prob."""
    reference = torch.tensor([-1.0])
    log_prob = (reference - math.log(times_rarer)).requires_grad_()
    penalty = kl_penalty(log_prob, reference, form)
    penalty.sum().backward()
    return penalty.item(), log_prob.grad.item()


print("verl", verl.__version__, "torch", torch.__version__)
print("times rarer: low_var_kl, its gradient; gradient of low_var_kl+")
for times in (2, 5, 13, 13.6, 13.7, 20, 1000):
    penalty, gradient = pull(times, "low_var_kl")
    print(f"{times:>11}: {penalty:10.3f}, {gradient:+12.3f}; {pull(times, 'low_var_kl+')[1]:+10.3f}")
still = pull(13, "low_var_kl")[1] < -11 and pull(14, "low_var_kl")[1] == 0 and pull(14, "low_var_kl+")[1] < 0
print("as found" if still else "CHANGED: low_var_kl has a gradient beyond 13.6")
sys.exit(0 if still else 1)
PY
