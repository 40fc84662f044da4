"""What people have in place of a model is told by its name, with the remedy."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rewards.model_files import check_file, check_folder, check_sam2, safetensors_header, tensor_names
from rewards.segmenter import Segmenter, load_sam2_weights
from rewards.segmenter.weights import read_weights
from rollout.errors import DataError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4967215360\n"
EMBEDDINGS, OUTPUT = "model.language_model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A sound folder with two shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    shards = {f"model-0000{i}-of-00002.safetensors": name for i, name in ((1, EMBEDDINGS), (2, OUTPUT))}
    for file, name in shards.items():
        save_file({name: torch.zeros(7, 4)}, folder / file)
    index = {"weight_map": {name: file for file, name in shards.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def test_a_sound_folder_a_file_and_nothing_at_all_pass(model: Path, tmp_path: Path) -> None:
    check_folder(model)
    check_folder(model / "model-00001-of-00002.safetensors")
    check_folder(tmp_path / "absent")


FILES = ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, r"is a git-lfs pointer.* of 4,967,215,360 bytes; run `git lfs install` and `git lfs pull` in"),
        ("/annex/objects/SHA256E-s1--0", r"is a git-annex pointer.*git annex get"),
        ("\n<!DOCTYPE html><html>", "is a web page"),
        ("", "is empty"),
    ],
)
def test_what_stands_for_a_file_is_no_file(model: Path, name: str, content: str, said: str) -> None:
    (model / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: {said}"):
        check_folder(model)


def test_a_download_that_broke_off(model: Path) -> None:
    file = model / FILES[2]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"is cut short, \d+ of \d+ bytes are there; download it again"):
        check_folder(model)
    assert OUTPUT in safetensors_header(file, whole=False)
    file.write_bytes(struct.pack("<Q", 10**6))
    with pytest.raises(DataError, match=r"is not a safetensors file \(a header of 1000000 bytes\)"):
        check_folder(model)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_shard_that_is_missing_is_named(model: Path, with_index: bool) -> None:
    (model / FILES[2]).unlink()
    if not with_index:
        (model / "model.safetensors.index.json").unlink()
    with pytest.raises(DataError, match=r"1 of 2 weight files are missing, the first is model-00002-of-00002.safet"):
        check_folder(model)


def test_an_index_of_weights_in_another_form_is_no_fault(model: Path) -> None:
    other = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(other))
    check_folder(model)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-VL-2B-Instruct"}))
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(DataError, match="is a LoRA adapter of Qwen/Qwen3-VL-2B-Instruct, not a model; merge it"):
        check_folder(tmp_path)


def test_a_checkpoints_folder_names_its_policy(model: Path, tmp_path: Path) -> None:
    step = tmp_path / "global_step_5"
    (step / "actor").mkdir(parents=True)
    model.rename(step / "policy")
    for folder in (step, step / "actor"):
        with pytest.raises(DataError, match=f"is a training checkpoint, not a policy; its policy is {step}/policy"):
            check_folder(folder)


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(DataError, match="GGUF"):
        check_folder(tmp_path)


def test_an_output_layer_longer_than_the_embedding(model: Path) -> None:
    save_file({OUTPUT: torch.zeros(9, 4)}, model / FILES[2])
    with pytest.raises(DataError, match=r"token embeddings have 7 rows, its output layer 9.*resize_token_embeddings"):
        check_folder(model)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="cannot be read"):
        check_file(tmp_path / "link.safetensors")


# ---- SAM 2 ------------------------------------------------------------------------------------------------------

Save = Callable[[dict[str, torch.Tensor], Path], None]


def save_pt(weights: dict[str, torch.Tensor], path: Path) -> None:
    torch.save({"model": weights}, path)


@pytest.mark.parametrize(("suffix", "save"), [(".pt", save_pt), (".safetensors", save_file)])
def test_other_sams_are_told_by_their_tensors(segmenter: Segmenter, tmp_path: Path, suffix: str, save: Save) -> None:
    own = {n: t.contiguous() for n, t in segmenter.sam2_model.state_dict().items()}
    older = {n: t for n, t in own.items() if "no_obj_embed_spatial" not in n and "obj_ptr_tpos_proj" not in n}
    hugging_face = {"vision_encoder.backbone.patch_embed.projection.weight": torch.zeros(4)}
    first = {"image_encoder.patch_embed.proj.weight": torch.zeros(4)}
    cases = {"SAM 2.0": older, "Hugging Face": hugging_face, "the first SAM": first}
    for said, weights in cases.items():
        path = tmp_path / f"sam2.1_hiera_large{suffix}"
        save(weights, path)
        for look in (check_sam2, lambda p: load_sam2_weights(segmenter.sam2_model, p)):
            with pytest.raises(DataError, match=f"{said}.*give SAM 2.1's weights as Meta publishes them"):
                look(path)
    save(own, path)
    check_sam2(path)
    load_sam2_weights(segmenter.sam2_model, path)
    assert set(own) <= set(tensor_names(path))


def test_another_size_is_told_by_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "sam2.1_hiera_large.pt"
    names = [f"image_encoder.trunk.blocks.{i}.norm1.weight" for i in range(16)]
    save_pt({n: torch.zeros(1) for n in [*names, "no_obj_embed_spatial", "obj_ptr_tpos_proj.weight"]}, path)
    check_sam2(path)
    check_sam2(path, "sam2.1_hiera_s")
    with pytest.raises(DataError, match=r"holds sam2.1_hiera_s, not sam2.1_hiera_l; set pool.preset=sam2.1_hiera_s"):
        check_sam2(path, "sam2.1_hiera_l")


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    with pytest.raises(DataError, match=r"is a folder in the form of Hugging Face's transformers \(sam2_video\)"):
        check_sam2(tmp_path)
    with pytest.raises(DataError, match=r"x.pt: no such file; give SAM 2's weights"):
        check_sam2(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not a model\n", "is no file of tensors alone"),
        (b"PK\x03\x04 a download that broke off", "is not a torch file"),
        ([1, 2], "holds no weights by name"),
    ],
)
def test_a_segmenter_file_that_torch_cannot_read_is_one_sentence(content: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sam2.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(DataError, match=said) as caught:
        read_weights(file)
    assert str(caught.value).startswith(str(file)) and "weights_only" not in str(caught.value)
