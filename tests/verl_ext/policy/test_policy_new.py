"""A Qwen3-VL and SAM 2's public file become an untrained [SEG] policy; what does not fit is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor
from typer.testing import CliRunner

from rewards.segmenter import Segmenter, SegmenterConfig
from rollout.chat_format import ChatFormat
from rollout.errors import DataError
from verl_ext.cli.main import app
from verl_ext.policy.checkpoint import HEAD_FOLDER, load_head_config, load_policy
from verl_ext.policy.head import decoder_items
from verl_ext.policy.new import new_policy
from verl_ext.policy.released_parts import ADDED_TOKENS, sam2_by_trunk
from verl_ext.scoring.pool import segmenter_state
from verl_ext.tiny import tokenizer as tiny_tokenizer
from verl_ext.tiny.build import TinyPolicy, build_tiny_policy

SEGMENTER = SegmenterConfig(image_size=64, d_model=32, mem_dim=16, memory_feedforward=32, seed=5)
EMBEDDINGS, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
Base = Callable[..., Path]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    """``base(vocabulary, tied)``: a Qwen3-VL folder whose tokenizer has never heard of [SEG]."""
    monkeypatch.setattr(tiny_tokenizer, "SEG_TOKENS", ())

    def make(vocabulary: int | None = None, tied: bool = False) -> Path:
        size = TinyPolicy(
            hidden=64, layers=1, vision_hidden=32, vision_layers=1, vocabulary=vocabulary, tie_embeddings=tied
        )
        folder = build_tiny_policy(tmp_path / "base", ["the cat that climbs first"], Segmenter(SEGMENTER), size)
        shutil.rmtree(folder / HEAD_FOLDER)
        return folder

    return make


@pytest.fixture
def sam2(tmp_path: Path) -> Path:
    """A file in the published layout; the sizes of so small a SAM 2 lie beside it."""
    folder = tmp_path / "sam2"
    folder.mkdir()
    torch.save({"model": Segmenter(SEGMENTER).sam2_model.state_dict()}, folder / "sam2.1.pt")
    SEGMENTER.save(folder / "segmenter.json")
    return folder / "sam2.1.pt"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("spare", [False, True])
def test_weights_are_kept_and_the_new_tokens_have_rows(
    base: Base, sam2: Path, tmp_path: Path, tied: bool, spare: bool
) -> None:
    source = base(1024 if spare else None, tied)
    known = len(AutoProcessor.from_pretrained(source).tokenizer)
    out = new_policy(source, sam2, tmp_path / "out", shard_bytes=100_000)
    before, policy = load_policy(source).state_dict(), load_policy(out)
    after = policy.state_dict()
    tables = {EMBEDDINGS, HEAD}
    assert all(torch.equal(before[n], after[n]) for n in before if n not in tables)
    processor = AutoProcessor.from_pretrained(out)
    ids = [processor.tokenizer.encode(token) for token in ADDED_TOKENS]
    assert ids == [[known + i] for i in range(5)]
    assert ChatFormat.from_processor(processor).seg == known
    for name in tables:
        assert len(after[name]) == (1024 if spare else known + 5) == policy.config.text_config.vocab_size
        assert torch.equal(after[name][:known], before[name][:known])
        new, old = after[name][known : known + 5], before[name][:known]
        assert (new - old.mean(dim=0)).std() < 0.3 * old.std() and len(new.unique(dim=0)) == 5
    assert torch.equal(after[EMBEDDINGS], after[HEAD]) is tied
    theirs = torch.load(sam2, weights_only=True)["model"]
    assert all(torch.equal(after[f"grounding_encoder.sam2_model.{n}"], t) for n, t in theirs.items())
    assert load_head_config(out) == SEGMENTER


def test_a_policy_on_sam3_decodes_masks_and_its_pool_propagates(base: Base, tmp_path: Path) -> None:
    """The file is known by its tensors; the pool gets the head's weights, and after an update the decoder's."""
    config = SegmenterConfig("sam3_tiny", image_size=64, d_model=128, memory_feedforward=32)
    folder = tmp_path / "sam3"
    folder.mkdir()
    theirs = {n: t.contiguous() for n, t in Segmenter(config).model.state_dict().items()}
    save_file(theirs, folder / "model.safetensors")
    config.save(folder / "segmenter.json")
    out = new_policy(base(), folder / "model.safetensors", tmp_path / "out")
    assert load_head_config(out) == config
    policy = load_policy(out)
    with torch.no_grad():
        masks = policy(
            input_ids=torch.arange(9)[None] + 20,
            seg_mask=torch.arange(9)[None] == 4,
            sam_pixels=torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0)),
            pair_state=torch.tensor([0]),
            pair_frame=torch.tensor([0]),
        ).mask_logits
    assert masks.shape == (1, 16, 16) and masks.abs().max() > 0
    worker = Segmenter(config)
    worker.model.load_state_dict(segmenter_state(out))  # strict: exactly its names
    assert all(torch.equal(t, theirs[n]) for n, t in worker.model.state_dict().items())
    decoder = dict(decoder_items(policy.named_parameters()))
    worker.load_decoder_state_dict(decoder)
    assert {name.split(".")[0] for name in decoder} == {"prompt_encoder", "mask_decoder"}


def test_the_new_policy_decodes_a_mask_and_the_same_seed_gives_the_same(base: Base, sam2: Path, tmp_path: Path) -> None:
    source = base()
    first, again, other = (new_policy(source, sam2, tmp_path / f"out{i}", seed=i // 2) for i in range(3))
    heads = [load_file(folder / HEAD_FOLDER / "model.safetensors") for folder in (first, again, other)]
    assert all(torch.equal(heads[0][n], heads[1][n]) for n in heads[0])
    assert not torch.equal(heads[0]["text_hidden_fcs.2.weight"], heads[2]["text_hidden_fcs.2.weight"])
    policy = load_policy(first)
    with torch.no_grad():
        out = policy(
            input_ids=torch.arange(9)[None] + 20,
            seg_mask=torch.arange(9)[None] == 4,
            sam_pixels=torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
            pair_state=torch.tensor([0]),
            pair_frame=torch.tensor([0]),
        )
    assert out.mask_logits.shape == (1, 16, 16) and out.mask_logits.abs().max() > 0


def test_the_published_sam2_is_told_from_its_trunk() -> None:
    stem = {"image_encoder.trunk.patch_embed.proj.weight": (144, 3, 7, 7)}
    blocks = {f"image_encoder.trunk.blocks.{i}.norm1.weight": (144,) for i in range(48)}
    assert sam2_by_trunk(stem | blocks, Path("models")).preset == "sam2.1_hiera_l"


def test_what_does_not_fit_is_refused_and_leaves_nothing(base: Base, sam2: Path, tmp_path: Path) -> None:
    source, out = base(), tmp_path / "out"
    with pytest.raises(DataError, match=r"nowhere: no config.json with weights"):
        new_policy(tmp_path / "nowhere", sam2, out)
    with pytest.raises(DataError, match=r"x\.pt: no such file; give SAM 2's weights"):
        new_policy(source, tmp_path / "x.pt", out)
    (sam2.parent / "segmenter.json").unlink()
    with pytest.raises(DataError, match=r"16 channels and 5 blocks, which is none of sam2.1_hiera_t"):
        new_policy(source, sam2, out)
    SegmenterConfig(image_size=64, d_model=64, mem_dim=16).save(sam2.parent / "segmenter.json")
    with pytest.raises(DataError, match=r"not the weights of this SAM 2"):
        new_policy(source, sam2, out)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_the_command_makes_a_policy_and_refuses_one_that_has_a_head(base: Base, sam2: Path, tmp_path: Path) -> None:
    def run(source: Path, out: str) -> tuple[int, str]:
        line = ["policy", "new", "--base", str(source), "--sam2", str(sam2), "--out", str(tmp_path / out)]
        result = CliRunner().invoke(app, line)
        return result.exit_code, result.output

    source = base()
    code, said = run(source, "out")
    assert code == 0 and "out" in said and (tmp_path / "out" / HEAD_FOLDER / "config.json").is_file()
    code, said = run(source, "out")
    assert code == 2 and "already exists" in said
    code, said = run(tmp_path / "out", "more")
    assert code == 2 and "is a [SEG] policy already" in said
