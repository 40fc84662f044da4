"""config.json as published: a type of the release's own on top, and code beside it that must never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3VLConfig

from rewards.segmenter import Segmenter, SegmenterConfig
from rollout.errors import DataError
from verl_ext.policy.released_parts import load_processor, source_config
from verl_ext.tiny.build import TinyPolicy, build_tiny_policy

SIZES = {
    "text_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "vision_config": {"depth": 2, "hidden_size": 32},
}


def write(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def plain() -> dict[str, Any]:
    return Qwen3VLConfig(**json.loads(json.dumps(SIZES))).to_dict()


def published(vision: str = "qwen3_vl", text: str = "qwen3_vl_text") -> dict[str, Any]:
    content = plain()
    content["model_type"], content["auto_map"] = "sa2va_chat", {"AutoConfig": "configuration_sa2va_chat.C"}
    content["vision_config"]["model_type"], content["text_config"]["model_type"] = vision, text
    return content


@pytest.mark.parametrize(
    "content",
    [
        plain(),
        published(),
        published(vision="qwen3_vl_vision"),
        published(text="qwen3_vl"),
        {"model_type": "sa2va_chat", "mllm_config": published()},
        {**published(), "architectures": ["Sa2VAChatModelQwen"], "template": "qwen3_vl"},
    ],
)
def test_the_model_is_what_has_a_text_and_a_vision_part(tmp_path: Path, content: dict[str, Any]) -> None:
    config = source_config(write(tmp_path / "release", content), None)
    assert type(config) is Qwen3VLConfig and config.model_type == "qwen3_vl"
    assert (config.text_config.hidden_size, config.vision_config.hidden_size) == (64, 32)
    assert not hasattr(config, "auto_map") or not config.auto_map


def test_the_base_wins(tmp_path: Path) -> None:
    other = plain()
    other["text_config"]["hidden_size"] = 128
    release, base = write(tmp_path / "release", published()), write(tmp_path / "base", other)
    assert source_config(release, base).text_config.hidden_size == 128
    assert source_config(release, tmp_path / "nothing").text_config.hidden_size == 64


@pytest.mark.parametrize("content", [{}, [], {"model_type": "qwen2_5_vl", **SIZES}, {"model_type": "qwen3_vl"}])
def test_what_is_no_qwen3_vl_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"no config.json of a Qwen3-VL there; name .* with --base"):
        source_config(write(tmp_path / "release", content), None)


def test_code_in_a_release_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "release"
    make_processor(folder)
    marker = tmp_path / "ran"
    (folder / "processing_mine.py").write_text(f"open({str(marker)!r}, 'w')\nclass P: pass\n")
    write(folder, {**published(), "auto_map": {"AutoProcessor": "processing_mine.P"}})
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        file = folder / name
        if file.is_file():
            content = json.loads(file.read_text())
            file.write_text(json.dumps({**content, "auto_map": {"AutoProcessor": "processing_mine.P"}}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run foreign code"))
    assert "[SEG]" in load_processor(folder).tokenizer.get_vocab()
    assert not marker.exists()


def make_processor(folder: Path) -> None:
    segmenter = Segmenter(SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32))
    size = TinyPolicy(hidden=64, layers=2, vision_hidden=32, vision_layers=2)
    build_tiny_policy(folder, ["the cat"], segmenter, size)
