"""verl's own data set class reads the parquet: tokens, loss mask and pixels of every picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_construction.export import export
from data_construction.traces import Sources
from tests.data_construction.trace_files import boxed, planned, write


@pytest.mark.parametrize("images", ["link", "embed"])
def test_multi_turn_sft_dataset(images: str, tiny_data: Path, tiny_policy: Path, tmp_path: Path) -> None:
    pytest.importorskip("verl")
    from transformers import AutoProcessor
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    lines = planned(tiny_data)[:2] + boxed(tiny_data)[:1]
    source = write(tmp_path / "t.jsonl", lines)
    (file,) = export(source, tmp_path / "out", Sources.parse([str(tiny_data)]), "verl", images=images).files  # type: ignore[arg-type]
    processor = AutoProcessor.from_pretrained(tiny_policy)
    config = {"max_length": 20000, "ignore_input_ids_mismatch": True, "pad_mode": "no_padding"}
    dataset = MultiTurnSFTDataset([str(file)], processor.tokenizer, config, processor)
    assert len(dataset) == 3
    for item, line in zip((dataset[i] for i in range(3)), lines, strict=True):
        turns = line["record"]["conversations"]
        pictures = sum(t["value"].count("<image>") for t in turns)
        grid = item["multi_modal_inputs"]["image_grid_thw"]
        assert grid.shape == (pictures, 3) and item["multi_modal_inputs"]["pixel_values"].shape[0] == grid.prod(1).sum()
        said = processor.tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        assert all(t["value"].split("<answer>")[-1].split("{")[0] in said for t in turns if t["from"] == "gpt")
        assert 0 < item["loss_mask"].sum() < len(item["loss_mask"]) / 2
    side = dataset[2]["multi_modal_inputs"]["image_grid_thw"][0].tolist()
    assert side[1] == side[2] and abs(side[1] * processor.image_processor.patch_size - 560) <= 32
