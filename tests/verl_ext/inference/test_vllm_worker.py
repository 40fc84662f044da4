"""What is changed inside vLLM's workers. vLLM is imported in a process of its own: it patches much at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from rollout.vllm_env import FORBIDDEN_TOKENS_ENV, policy_forbidden_token_ids

CODE = """
import json, sys
from types import SimpleNamespace
import torch
import vllm.model_executor.layers.utils as layers
from verl_ext.inference import vllm_worker
from verl_ext.inference.vllm_worker import WorkerExtension, keep_plain_linear

found = {}

def linear():
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    layer.weight.weight_loader = "the loader that a later sync needs"
    return layer

def look(layer, original):
    x = torch.randn(3, 64)
    return {
        "numbers": layer.weight.numel(),
        "loader": hasattr(layer.weight, "weight_loader"),
        "right": bool(torch.allclose(layer.cpu_linear(x, layer.weight, None), x @ original.T, atol=1e-4)),
    }

layer = linear()
original = layer.weight.detach().clone()
layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
found["upstream"] = look(layer, original)
keep_plain_linear()
layer = linear()
layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
found["ours"] = look(layer, original)

seen = {}
base = WorkerExtension.__mro__[1]
base.monkey_patch_model = lambda self, size, banned: seen.update(size=size, banned=banned)
base._update_weights = lambda self, weights, *a, **k: seen.update(weights=list(weights))
worker = object.__new__(WorkerExtension)
worker.model_runner = SimpleNamespace(execute_model=lambda scheduled: None, max_num_reqs=2)
worker.monkey_patch_model(500, [7, 9])
buffer = torch.ones(4)
worker._update_weights([("w", buffer)], None, True)
buffer.zero_()  # verl fills the same buffer with the next bucket
found["banned"], found["kept"] = seen["banned"], seen["weights"][0][1].tolist()
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    env = {**os.environ, FORBIDDEN_TOKENS_ENV: "[3, 7]", "VLLM_LOGGING_LEVEL": "ERROR"}
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    line = next(line for line in run.stdout.splitlines() if line.startswith("FOUND"))
    out: dict[str, Any] = json.loads(line.removeprefix("FOUND"))
    return out


@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM-CPU only")
def test_vllm_cpu_still_drops_weights_and_loaders(found: dict[str, Any]) -> None:
    """Fails once upstream keeps them: then remove ``keep_plain_linear``."""
    assert found["upstream"]["numbers"] == 0 and not found["upstream"]["loader"]


def test_plain_linear_keeps_weight_and_loader_and_computes_the_same(found: dict[str, Any]) -> None:
    assert found["ours"] == {"numbers": 64 * 32, "loader": True, "right": True}


def test_forbidden_tokens_join_verls_own(found: dict[str, Any]) -> None:
    assert found["banned"] == [3, 7, 9]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA parameters never alias the buffer")
def test_received_weights_are_not_views_of_the_buffer(found: dict[str, Any]) -> None:
    assert found["kept"] == [1.0] * 4


def test_a_policys_forbidden_tokens_are_its_vision_and_dialogue_tokens(tiny_policy: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    names = set(tokenizer.convert_ids_to_tokens(policy_forbidden_token_ids(str(tiny_policy))))
    assert {"<|image_pad|>", "<|vision_start|>", "<|im_start|>"} <= names
    assert not names & {"[SEG]", "<|im_end|>", "<think>"}
