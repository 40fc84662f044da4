"""The model that is built is SAM 2, and building it leaves Hydra and the random state alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rewards.segmenter import Segmenter, SegmenterConfig, build_sam2, load_sam2_weights
from rollout.errors import DataError
from tests.rewards.segmenter.conftest import SMALL


def test_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    first = build_sam2(SMALL)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    again, other = build_sam2(SMALL), build_sam2(SegmenterConfig(**{**SMALL.to_dict(), "seed": 1}))
    assert torch.equal(first.no_mem_embed, again.no_mem_embed)
    assert not torch.equal(first.no_mem_embed, other.no_mem_embed)


def test_names_equal_the_stock_predictors() -> None:
    assert set(build_sam2(SMALL).state_dict()) == set(build_sam2(SMALL, stock_predictor=True).state_dict())


def test_real_preset_has_the_checkpoints_layout() -> None:
    """Facts of sam2.1_hiera_tiny.pt: 38.96 M parameters under these names."""
    model = build_sam2(SegmenterConfig(preset="sam2.1_hiera_t"))
    state = model.state_dict()
    assert state["sam_mask_decoder.iou_token.weight"].shape == (1, 256)
    assert state["image_encoder.trunk.patch_embed.proj.weight"].shape == (96, 3, 7, 7)
    assert state["memory_attention.layers.3.cross_attn_image.k_proj.weight"].shape == (256, 64)
    assert sum(p.numel() for p in model.parameters()) == 38_962_498
    assert Segmenter(SegmenterConfig(preset="sam2.1_hiera_t"), model).prompt_width == 256


HYDRA_SCRIPT = """
import hydra
from hydra.core.global_hydra import GlobalHydra
from rewards.segmenter import SegmenterConfig, build_sam2

build_sam2(SegmenterConfig(image_size=64, d_model=32))
assert not GlobalHydra.instance().is_initialized()

@hydra.main(config_path=".", config_name="conf", version_base=None)
def main(cfg):
    mine = GlobalHydra.instance().hydra
    build_sam2(SegmenterConfig(preset="sam2.1_hiera_t"))
    assert GlobalHydra.instance().hydra is mine
    print("answer", cfg.answer)

main()
"""


def test_hydra_main_works_before_and_after_building(tmp_path: Path) -> None:
    """``import sam2`` alone claims Hydra's global state, and a Hydra main started afterwards dies."""
    (tmp_path / "conf.yaml").write_text("answer: 42\n")
    (tmp_path / "main.py").write_text(HYDRA_SCRIPT)
    root = str(Path(__file__).parents[3])
    command = [sys.executable, str(tmp_path / "main.py"), f"hydra.run.dir={tmp_path}/out"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True)
    assert "answer 42" in done.stdout, done.stderr


@pytest.mark.parametrize("prefix", ["", "grounding_encoder.sam2_model."])
def test_weights_load_from_every_kind_of_file(segmenter: Segmenter, tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    state = {prefix + k: v for k, v in segmenter.sam2_model.state_dict().items()}
    if prefix:
        state["text_hidden_fcs.0.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state}, tmp_path / "b.pt")
    for file in ("a.safetensors", "b.pt"):
        model = build_sam2(SMALL)
        load_sam2_weights(model, tmp_path / file)
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in segmenter.sam2_model.state_dict().items())


def test_weights_of_another_architecture_are_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    torch.save({"model": segmenter.sam2_model.state_dict()}, tmp_path / "w.pt")
    wider = build_sam2(SegmenterConfig(image_size=64, d_model=64))
    with pytest.raises(DataError, match=r"w\.pt: not the weights of this SAM 2.*of another shape"):
        load_sam2_weights(wider, tmp_path / "w.pt")
    with pytest.raises(DataError, match="no such SAM 2 checkpoint"):
        load_sam2_weights(wider, tmp_path / "absent.pt")
