"""A tiny Qwen3.5, of linear and full attention, as the base of the box method: its supervised stage, without rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_construction.cot.seed import SeedSettings
from data_construction.cot.seed_by_rule import write_seed_traces
from data_construction.readers import open_dataset
from tests.conftest import BOX_FRAMES
from tests.e2e.runs import train
from verl_ext.policy.checkpoint import load_policy, write_policy_folder
from verl_ext.tiny.tokenizer import CHAT_TEMPLATE, picture_tokens, train_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SIDE = 160
"""A multiple of 32, its cell, and not of 28."""
ROOM = (
    f"rollout.box_side={SIDE}",
    "rollout.prompt_length=512",
    "rollout.response_length=192",
    "rollout.turn_length=192",
    "rollout.engine.max_model_len=704",
)
FEW = (
    "trainer.steps=12",
    "trainer.prompts_per_step=2",
    "trainer.micro_batch=1",
    "trainer.eval_every=0",
    "optim.lr=3e-3",
)


def tiny_config(tokenizer: Any) -> Any:
    """Three layers of linear attention and one of full, as published."""
    from transformers import Qwen3_5Config

    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "max_position_embeddings": 8192,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
            "partial_rotary_factor": 0.25,
        },
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 256,
    }
    return Qwen3_5Config(
        text_config=text,
        vision_config=vision,
        **picture_tokens(tokenizer),
        tie_word_embeddings=False,
    )


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    file = tmp_path_factory.mktemp("traces") / "seed.jsonl"
    write_seed_traces(open_dataset("revos", tiny_data, "train"), file, SeedSettings(frames=BOX_FRAMES, side=SIDE))
    return file


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, traces: Path) -> Path:
    from transformers import (
        GenerationConfig,
        Qwen2VLImageProcessor,
        Qwen3_5ForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = train_tokenizer([traces.read_text()], merges=300, numbers=64, added=())
    cell = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    cell |= {"size": {"shortest_edge": 1024, "longest_edge": 12845056}}  # type: ignore[dict-item]
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**cell),
        video_processor=Qwen3VLVideoProcessor(**cell),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    config = tiny_config(tokenizer)
    torch.manual_seed(0)
    state = Qwen3_5ForConditionalGeneration(config).state_dict()
    generation = GenerationConfig(eos_token_id=[config.text_config.eos_token_id], do_sample=True)
    folder = tmp_path_factory.mktemp("qwen3_5") / "policy"
    write_policy_folder(folder, config, state, None, None, processor, generation)
    return folder


@pytest.fixture(scope="module")
def command(
    policy: Path, traces: Path, tiny_box_recipe_file: Path, tiny_box_settings: Callable[..., list[str]]
) -> tuple[str, ...]:
    places = (f"policy.path={policy}", f"data.0.annotations={traces}")
    return (str(tiny_box_recipe_file), *tiny_box_settings("sft"), *places, *ROOM, *FEW)


def test_it_learns_what_it_is_shown(command: tuple[str, ...], policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft"
    run = train(out, *command, f"output_dir={out}", "policy.packing=none")
    assert run.code == 0, run.said[-3000:]
    assert run.last == 12 and run.steps[12]["lm"] < 0.85 * run.steps[1]["lm"]
    before, after = load_policy(policy), load_policy(out / "policy")
    assert after.config.model_type == "qwen3_5"
    moved = {n for n, p in after.state_dict().items() if not torch.equal(p, before.state_dict()[n])}
    assert any("linear_attn" in n for n in moved) and any("self_attn" in n for n in moved)
    assert any("visual" in n for n in moved)


def test_rows_are_refused_with_what_to_set(command: tuple[str, ...], tmp_path: Path) -> None:
    """Linear attention has no mask by which rollouts could share their prompt."""
    run = train(tmp_path / "rows", *command, f"output_dir={tmp_path / 'rows'}", "policy.packing=group")
    assert run.code == 2 and not (tmp_path / "rows").exists(), "before anything starts"
    assert "policy.packing: group, and the policy is a qwen3_5" in run.said, run.said[-3000:]
    assert "set policy.packing=none" in run.said
