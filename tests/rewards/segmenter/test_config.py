from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rewards.segmenter import SegmenterConfig
from rollout.errors import RecipeError


def test_json_round_trip(tmp_path: Path) -> None:
    config = SegmenterConfig(image_size=64, stages=(1, 2, 2, 1), global_att_blocks=(2, 4), compute_dtype="bfloat16")
    config.save(tmp_path / "c.json")
    assert SegmenterConfig.load(tmp_path / "c.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "sam9"}, "segmenter.preset: 'sam9' is not one of tiny, sam2.1_hiera_t"),
        ({"image_size": 100}, "segmenter.image_size: 100 must be a positive multiple of 32"),
        ({"d_model": 32, "mem_dim": 48}, "must divide segmenter.d_model = 32"),
        ({"global_att_blocks": (2,)}, "block 2 opens a stage"),
        ({"compute_dtype": "float16"}, "use 'float32' or 'bfloat16'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SegmenterConfig(**change)  # type: ignore[arg-type]


def test_unknown_key_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"segmenter\.imagesize: unknown key"):
        SegmenterConfig.from_dict({"imagesize": 64})


def test_real_presets_have_the_papers_widths() -> None:
    config = SegmenterConfig(preset="sam2.1_hiera_l")
    assert (config.prompt_width, config.input_size) == (256, 1024)
    assert (SegmenterConfig().prompt_width, SegmenterConfig().input_size) == (128, 128)


def test_config_and_requests_import_without_torch() -> None:
    code = "import sys, rewards.segmenter, rewards.pool; assert not {'torch', 'ray', 'sam2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
