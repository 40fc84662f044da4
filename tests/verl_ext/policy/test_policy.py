"""The policy module: forward, and its folder on disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from rollout.errors import DataError
from verl_ext.policy.checkpoint import (
    HEAD_FOLDER,
    _plain,
    has_head,
    load_head_config,
    load_head_state,
    load_policy,
    save_policy,
)
from verl_ext.policy.forbidden import FORBIDDEN_LOGIT, forbid_tokens
from verl_ext.policy.head import DECODER_PREFIXES, decoder_items, is_head_parameter
from verl_ext.scoring.pool import segmenter_state


@pytest.fixture(scope="module")
def model(tiny_policy: Path) -> Any:
    return load_policy(tiny_policy)


@pytest.fixture
def folder(tiny_policy: Path, tmp_path: Path) -> Path:
    """A private copy."""
    return Path(shutil.copytree(tiny_policy, tmp_path / "policy"))


def inputs(model: Any, length: int = 9, seg: tuple[tuple[int, int], ...] = ((0, 4), (0, 7), (1, 5))) -> dict[str, Any]:
    """Two text sequences, [SEG] at (row, position), each state on frame 0 and the first also on frame 1."""
    g = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, length, dtype=torch.bool)
    for row, position in seg:
        mask[row, position] = True
    pairs = [(i, 0) for i in range(len(seg))] + [(0, 1)] * bool(seg)
    side = model.grounding_encoder.config.input_size
    return {
        "input_ids": torch.randint(0, 200, (2, length), generator=g),
        "seg_mask": mask,
        "sam_pixels": torch.randn(2, 3, side, side, generator=g),
        "pair_state": torch.tensor([s for s, _ in pairs], dtype=torch.long),
        "pair_frame": torch.tensor([f for _, f in pairs], dtype=torch.long),
    }


# ---- forward ----------------------------------------------------------------------------------------------------


def test_states_and_masks_equal_the_direct_computation(model: Any) -> None:
    given = inputs(model)
    with torch.no_grad():
        out = model(**given)
        hidden = model.model(input_ids=given["input_ids"]).last_hidden_state
        states = model.text_hidden_fcs(torch.stack([hidden[0, 4], hidden[0, 7], hidden[1, 5]]))
        features = model.grounding_encoder.encode(given["sam_pixels"])
        masks, _ = model.grounding_encoder.decode(features, given["pair_frame"], states[given["pair_state"]])
    assert torch.allclose(out.seg_states, states, atol=1e-6)
    assert torch.allclose(out.mask_logits, masks, atol=1e-5)
    assert out.mask_logits.shape == (4, 16, 16)
    assert torch.allclose(out.logits, model.lm_head(hidden))


def test_without_seg_mask_it_is_the_language_model_alone(model: Any, tiny_policy: Path) -> None:
    plain = Qwen3VLForConditionalGeneration.from_pretrained(tiny_policy, attn_implementation="sdpa").float()
    ids = inputs(model)["input_ids"]
    with torch.no_grad():
        out, expected = model(input_ids=ids), plain.eval()(input_ids=ids)
    assert out.seg_states is None and out.mask_logits is None
    assert torch.allclose(out.logits, expected.logits, atol=1e-6)


def touched(model: Any, given: dict[str, Any]) -> set[str]:
    """Head parameters that a backward pass reaches."""
    model.zero_grad()
    out = model(**given)
    (out.logits.square().mean() + out.mask_logits.square().sum()).backward()
    names = {n for n, p in model.named_parameters() if is_head_parameter(n) and p.grad is not None}
    model.zero_grad()
    return names


def test_a_batch_without_seg_touches_every_head_parameter_that_training_touches(model: Any) -> None:
    """Or FSDP's ranks would reduce different sets of gradients."""
    with_seg = touched(model, inputs(model))
    without = touched(model, inputs(model, seg=()))
    assert without == with_seg
    assert {"text_hidden_fcs.0.weight", "text_hidden_fcs.2.bias"} <= without
    assert any(n.startswith(DECODER_PREFIXES) for n in without)


def test_a_batch_without_seg_has_no_masks_and_the_same_logits(model: Any) -> None:
    given = inputs(model, seg=())
    with torch.no_grad():
        out = model(**given)
        assert out.mask_logits.shape[0] == out.seg_states.shape[0] == 0
        assert torch.equal(out.logits, model(input_ids=given["input_ids"]).logits)


def test_only_projection_and_decoder_of_the_head_train(model: Any) -> None:
    trained = {n for n, p in model.named_parameters() if is_head_parameter(n) and p.requires_grad}
    assert all(n.startswith(("text_hidden_fcs.", *DECODER_PREFIXES)) for n in trained)
    assert not any(".image_encoder." in n or ".memory" in n for n in trained)


def test_pairs_must_come_with_their_frames(model: Any) -> None:
    given = inputs(model) | {"pair_state": None}
    with pytest.raises(ValueError, match="which state decodes which frame"):
        model(**given)


def test_forbidden_tokens_have_no_probability_at_any_temperature() -> None:
    class Output:
        def __init__(self) -> None:
            self.logits = torch.randn(2, 3, 8, requires_grad=True)

    class Module(torch.nn.Module):
        def forward(self) -> Output:
            return Output()

    module = Module()
    forbid_tokens(module, [6, 1])
    logits = module().logits
    assert (logits[..., [1, 6]] == FORBIDDEN_LOGIT).all() and (logits[..., [0, 2, 3, 4, 5, 7]] > -100).all()
    for temperature in (1.0, 0.1):
        p = torch.softmax(logits / temperature, dim=-1)
        assert (p[..., [1, 6]] == 0).all()
        entropy = torch.logsumexp(logits / temperature, -1) - (p * logits / temperature).sum(-1)
        assert torch.isfinite(entropy).all()


# ---- folders ----------------------------------------------------------------------------------------------------


def test_save_then_load_gives_equal_tensors(model: Any, tiny_policy: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_policy)
    save_policy(model, processor, tmp_path / "copy")
    again = load_policy(tmp_path / "copy")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert len(AutoProcessor.from_pretrained(tmp_path / "copy").tokenizer) == len(processor.tokenizer)


def test_the_language_model_folder_knows_nothing_of_the_head(tiny_policy: Path) -> None:
    names = load_file(str(tiny_policy / "model.safetensors"))
    assert names and not any(is_head_parameter(n) for n in names)
    assert all(is_head_parameter(n) for n in load_head_state(tiny_policy))


def test_overwriting_is_whole_or_not_at_all(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def disk_full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("verl_ext.policy.checkpoint.save_file", disk_full)
    with pytest.raises(OSError, match="No space"):
        save_policy(model, processor, folder)
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]

    monkeypatch.undo()
    (folder / "stale.txt").write_text("from an earlier policy")
    save_policy(model, processor, folder)
    assert not (folder / "stale.txt").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert torch.equal(load_policy(folder).lm_head.weight, model.lm_head.weight)


def test_a_folder_without_head_loads_as_a_plain_policy(folder: Path) -> None:
    shutil.rmtree(folder / HEAD_FOLDER)
    assert not has_head(folder)
    assert not hasattr(load_policy(folder), "text_hidden_fcs")
    with pytest.raises(DataError, match="not a \\[SEG\\] policy"):
        load_head_config(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("text_hidden_fcs.0.weight"), "missing tensors \\['text_hidden_fcs.0.weight'\\]"),
        (lambda s: s.update({"text_hidden_fcs.9.weight": torch.zeros(1)}), "unknown tensors \\['text_hidden_fcs.9"),
        (lambda s: s.update({"lm_head.weight": torch.zeros(1)}), "unexpected tensors \\['lm_head.weight'\\]"),
    ],
)
def test_a_head_that_does_not_fit_names_its_tensors(folder: Path, edit: Any, message: str) -> None:
    path = folder / HEAD_FOLDER / "model.safetensors"
    state = load_file(str(path))
    edit(state)
    save_file(state, str(path))
    with pytest.raises(DataError, match=message):
        load_policy(folder)


def test_missing_head_weights_are_named(folder: Path) -> None:
    (folder / HEAD_FOLDER / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        load_policy(folder)


def test_head_config_round_trips(tiny_policy: Path) -> None:
    config = load_head_config(tiny_policy)
    written = json.loads((tiny_policy / HEAD_FOLDER / "config.json").read_text())
    assert config.to_dict() == written["segmenter"]
    assert config.image_size == 64


def test_the_pool_gets_sam2_under_its_own_names(model: Any, tiny_policy: Path) -> None:
    state = segmenter_state(tiny_policy)
    model.grounding_encoder.sam2_model.load_state_dict(state)  # strict: exactly its names
    decoder = dict(decoder_items(iter(model.state_dict().items())))
    assert decoder.keys() <= state.keys()
    assert {n.split(".")[0] for n in decoder} == {"sam_prompt_encoder", "sam_mask_decoder"}


# ---- interrupted writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_writer_left_is_mended_by_the_next_one(there: bool, tiny_policy: Path, tmp_path: Path) -> None:
    """Killed between the two renames, the folder lies under a hidden name; killed while writing, a half does."""
    target = tmp_path / "policy"
    old, half = tmp_path / ".policy.old", tmp_path / ".policy.new.x1"
    shutil.copytree(tiny_policy, target if there else old)
    if there:
        old.mkdir()  # killed before it was removed
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    model, processor = load_policy(tiny_policy), AutoProcessor.from_pretrained(tiny_policy)
    real, seen = os.replace, []

    def killed(source: Any, place: Any) -> None:
        seen.append((Path(source).name, Path(place).name))
        if Path(source).name.startswith(".policy.new."):
            raise KeyboardInterrupt
        real(source, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("verl_ext.policy.checkpoint.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_policy(model, processor, target)
    assert seen[0] == (("policy", ".policy.old") if there else (".policy.old", "policy"))
    assert not target.exists() and sorted(p.name for p in tmp_path.iterdir()) == [".policy.old"]
    save_policy(model, processor, target)
    assert load_policy(target).state_dict().keys() == model.state_dict().keys()
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_weights_that_share_memory_are_written_apart_and_others_are_not_copied() -> None:
    whole = torch.arange(12.0).view(3, 4)
    given = {"a": whole, "tied": whole, "view": whole[1], "b": torch.ones(2)}
    plain = dict(_plain(given.items()))
    assert all(torch.equal(plain[n], given[n]) for n in given)
    assert len({t.untyped_storage().data_ptr() for t in plain.values()}) == 4
    assert plain["a"].data_ptr() == whole.data_ptr()  # a policy of 8 GB is not held twice
