"""A release of VideoSEG-O3 becomes a policy of ours: every tensor, the forward, the tokens; and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor
from typer.testing import CliRunner

from rewards.segmenter import Segmenter, SegmenterConfig
from rollout.chat_format import ChatFormat
from rollout.errors import DataError
from verl_ext.cli.main import app
from verl_ext.policy.checkpoint import HEAD_FOLDER, load_policy
from verl_ext.policy.convert import convert_released
from verl_ext.policy.head import is_head_parameter
from verl_ext.policy.released import convert_once, is_released
from verl_ext.policy.released_parts import ADDED_TOKENS
from verl_ext.tiny.build import TinyPolicy, build_tiny_policy
from verl_ext.tiny.tokenizer import SEG_TOKENS

SEGMENTER = SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32)
Weights = dict[str, torch.Tensor]
Release = Callable[..., Path]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours") / "policy"
    size = TinyPolicy(hidden=64, layers=2, vision_hidden=32, vision_layers=2)
    return build_tiny_policy(folder, ["the cat that climbs first"], Segmenter(SEGMENTER), size)


@pytest.fixture
def release(ours: Path, tmp_path: Path) -> Release:
    """``release(form)``: the same weights under the released names, in the files of ``form``."""

    def make(form: str = "shards", change: Callable[[Weights], None] = lambda weights: None) -> Path:
        folder = tmp_path / f"released_{form}"
        folder.mkdir()
        for file in ours.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copy(file, folder)
        SEGMENTER.save(folder / "segmenter.json")
        weights = {f"model.{n}": t for n, t in load_file(ours / "model.safetensors").items()}
        weights |= load_file(ours / HEAD_FOLDER / "model.safetensors")
        change(weights)
        if form == "pth":
            torch.save({"state_dict": {f"module.{n}": t for n, t in weights.items()}}, folder / "videoseg.pth")
            return folder
        names = sorted(weights)
        for i in (0, 1):
            save_file({n: weights[n] for n in names[i::2]}, folder / f"model-{i + 1:05d}-of-00002.safetensors")
        return folder

    return make


@pytest.mark.parametrize("form", ["shards", "pth"])
def test_every_tensor_and_the_forward_are_the_releases(ours: Path, release: Release, form: str, tmp_path: Path) -> None:
    source = release(form)
    assert is_released(source) and not is_released(ours)
    out = convert_released(source, tmp_path / "out", shard_bytes=100_000)
    assert len(list(out.glob("model-*.safetensors"))) > 3 and (out / "model.safetensors.index.json").is_file()
    before, after = load_policy(ours), load_policy(out)
    theirs, mine = before.state_dict(), after.state_dict()
    assert theirs.keys() == mine.keys() and all(torch.equal(theirs[n], mine[n]) for n in theirs)
    given: dict[str, Any] = {
        "input_ids": torch.arange(18).reshape(2, 9) + 20,
        "seg_mask": torch.arange(18).reshape(2, 9) % 9 == 4,
        "sam_pixels": torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "pair_state": torch.tensor([0, 1]),
        "pair_frame": torch.tensor([0, 0]),
    }
    with torch.no_grad():
        a, b = before(**given), after(**given)
    assert torch.equal(a.logits, b.logits) and torch.equal(a.mask_logits, b.mask_logits)
    assert a.mask_logits.abs().max() > 0


def test_tokens_and_pixel_limits_are_those_that_dialogues_need(release: Release, tmp_path: Path) -> None:
    """A release has Qwen's limits, under which small frames would be resized behind our back."""
    source = release()
    file = source / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"]["size"] = {"shortest_edge": 65536, "longest_edge": 16777216}
    file.write_text(json.dumps(content))
    chat = ChatFormat.from_processor(AutoProcessor.from_pretrained(convert_released(source, tmp_path / "out")))
    assert chat.min_pixels <= 4 * 28 * 28 and chat.seg is not None
    assert ADDED_TOKENS == SEG_TOKENS


def test_tied_embeddings_may_come_with_a_copy_or_with_a_head_of_their_own(
    ours: Path, release: Release, tmp_path: Path
) -> None:
    def tie(weights: Weights) -> None:
        weights["model.lm_head.weight"] = weights["model.model.language_model.embed_tokens.weight"].clone()

    source = release("shards", tie)
    file = source / "config.json"
    content = json.loads(file.read_text())
    content["tie_word_embeddings"] = content["text_config"]["tie_word_embeddings"] = True
    file.write_text(json.dumps(content))
    out = convert_released(source, tmp_path / "copy")
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    policy = load_policy(out)
    assert torch.equal(policy.lm_head.weight, policy.get_input_embeddings().weight)

    shutil.rmtree(source)
    source = release("shards")
    file.write_text(json.dumps(content))
    trained = load_policy(convert_released(source, tmp_path / "own")).lm_head.weight
    assert torch.equal(trained, load_policy(ours).lm_head.weight)
    assert not torch.equal(trained, load_policy(ours).get_input_embeddings().weight)


def test_a_base_lends_configuration_and_tokenizer(ours: Path, release: Release, tmp_path: Path) -> None:
    source, base = release(), tmp_path / "base"
    shutil.copytree(ours, base)
    for file in source.glob("*.json"):
        if file.name != "segmenter.json":
            file.unlink()
    with pytest.raises(DataError, match="--base"):
        convert_released(source, tmp_path / "out")
    out = convert_released(source, tmp_path / "out", base)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(ours), weights_of(out), strict=True))


def weights_of(folder: Path) -> list[torch.Tensor]:
    state = load_policy(folder).state_dict()
    return [state[n] for n in sorted(state)]


def drop(name: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        del weights[next(n for n in sorted(weights) if n.endswith(name))]

    return change


def add(name: str, *shape: int) -> Callable[[Weights], None]:
    return lambda weights: weights.update({name: torch.zeros(*shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("q_proj.weight"), "1 tensors missing"),
        (drop("obj_ptr_proj.layers.0.weight"), "does not fit tiny: 1 tensors missing"),
        (add("model.model.language_model.layers.9.mlp.gate_proj.weight", 2), "1 unknown"),
        (add("surprise.weight", 2), "unknown .*surprise"),
        (add("text_hidden_fcs.2.bias", 5), "1 of another shape"),
        (add("model.model.language_model.norm.weight", 5), r"is \(5,\), the configuration says \(64,\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_leaves_nothing(
    release: Release, tmp_path: Path, change: Callable[[Weights], None], message: str
) -> None:
    source = release("shards", change)
    with pytest.raises(DataError, match=message):
        convert_released(source, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_tokenizer_without_the_added_tokens_is_refused(release: Release, tmp_path: Path) -> None:
    source = release()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = source / name
        file.write_text(file.read_text().replace('"<vp>"', '"<xx>"'))
    with pytest.raises(DataError, match=r"lacks <vp>"):
        convert_released(source, tmp_path / "out")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trap_was_here"),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "released"
    source.mkdir()
    torch.save({"model.x": torch.zeros(1), "text_hidden_fcs.0.weight": Trap()}, source / "model.pth")
    (source / "raw.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("model.pth", "raw.pth"):
        with pytest.raises(DataError, match=rf"{name}: is no file of tensors alone"):
            convert_released(source / name, tmp_path / "out")
    assert not (tmp_path / "trap_was_here").exists()


def test_conversion_happens_once_and_again_when_the_files_change(release: Release, tmp_path: Path) -> None:
    source, said = release(), list[str]()
    first = convert_once(source, tmp_path / "cache", None, said.append)
    assert convert_once(source, tmp_path / "cache", None, said.append) == first
    assert "converting" in said[0] and "using its conversion" in said[1] and str(first) in said[1]
    shard = next(source.glob("*.safetensors"))
    save_file(load_file(shard), shard, metadata={"again": "yes"})
    assert convert_once(source, tmp_path / "cache", None, said.append) != first


def test_the_command_converts_and_refuses_what_is_none(ours: Path, release: Release, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["convert", str(release()), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert load_policy(tmp_path / "out").config.model_type == "qwen3_vl"
    again = run(app, ["convert", str(tmp_path / "released_shards"), str(tmp_path / "out")])
    assert again.exit_code == 2 and "already exists" in again.stderr
    refused = run(app, ["convert", str(ours), str(tmp_path / "other")])
    assert refused.exit_code == 2 and "needs no conversion" in refused.stderr


def test_head_names_are_the_releases_own(ours: Path) -> None:
    names = load_file(ours / HEAD_FOLDER / "model.safetensors")
    assert all(is_head_parameter(n) for n in names)
    assert any(n.startswith("grounding_encoder.sam2_model.image_encoder.trunk.") for n in names)
    assert {"text_hidden_fcs.0.weight", "text_hidden_fcs.2.bias"} <= names.keys()
