"""A new ``[SEG]`` policy, where supervised training starts: a Qwen3-VL, SAM 2's weights, an untrained projection.

Language and vision weights go shard by shard from file to file, so that a 4B model needs a few GB of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_construction.atomic import new_folder
from rewards.model_files import check_folder, check_sam2, check_sam3, holds_sam3
from rollout.errors import DataError
from verl_ext.policy.convert import (
    EMBEDDINGS,
    LM_HEAD,
    SHARD_BYTES,
    settle_tying,
    write_facts,
    write_head,
    write_lm,
)
from verl_ext.policy.released_parts import SAM2, add_tokens, lm_names, sam2_by_trunk, source_config
from verl_ext.policy.tensor_files import TensorFiles, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from rewards.segmenter import Segmenter

NOISE = 0.1
"""Spread of a new token's row around the mean row, as a share of the rows' own spread."""


def new_policy(
    base: Path,
    sam2: Path,
    out: Path,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the policy folder ``out``, whole or not at all; returns it.

    The tokenizer gets VideoSEG-O3's five tokens. Their rows start at the mean of the known ones: a spare row of the
    base was never trained, and one far from the others would be said always or never. Rows are only added where the
    base has none to spare.

    Args:
        base: Qwen3-VL folder: configuration, weights, tokenizer and processor.
        sam2: SAM 2's weights as published (``sam2.1_hiera_large.pt``); another shape of SAM 2 is described in a
            ``segmenter.json`` beside it.
        seed: of the projection and of the new rows.

    Raises:
        DataError: files missing, of another model, or a base that is a ``[SEG]`` policy; ``out`` is not empty.
    """
    from transformers import AutoProcessor

    from verl_ext.policy.checkpoint import has_head

    check_folder(base)
    (check_sam3 if holds_sam3(sam2) else check_sam2)(sam2)
    files = weight_files(base)
    if not files or not (base / "config.json").is_file():
        raise DataError(f"{base}: no config.json with weights there; give a Qwen3-VL folder, as downloaded")
    if has_head(base):
        raise DataError(f"{base}: is a [SEG] policy already; train from it with policy.path={base}")
    config = source_config(base, None)
    processor = AutoProcessor.from_pretrained(base)
    known = len(processor.tokenizer)
    added = [processor.tokenizer.convert_tokens_to_ids(token) for token in add_tokens(processor)]
    tensors = TokenRows(files, added, known, seed)
    named = lm_names(tensors.shapes, config, str(base))
    settle_tying(config, named, tensors)
    rows = max(tensors.shapes[named[EMBEDDINGS]][0], len(processor.tokenizer))
    tensors.grow([named[name] for name in (EMBEDDINGS, LM_HEAD) if name in named], rows)
    config.text_config.vocab_size = rows
    segmenter = read_segmenter(sam2)
    with new_folder(out) as partial:
        write_lm(partial, named, tensors, shard_bytes, progress or (lambda done, total, what: None))
        write_head(partial, _head(segmenter, config.text_config.hidden_size, seed), segmenter.config)
        write_facts(partial, config, processor, (base,))
    return out


def read_segmenter(path: Path) -> Segmenter:
    """SAM 2 or SAM 3 with the weights in ``path``; which one it is is told from its image encoder.

    Raises:
        DataError: no file, another model than the published SAM 2.1 ones and SAM 3, or weights that do not fit.
    """
    from rewards.segmenter import Segmenter, SegmenterConfig
    from rewards.segmenter.families import load_weights

    sam3 = holds_sam3(path)
    (check_sam3 if sam3 else check_sam2)(path)
    described = path.parent / "segmenter.json"
    if described.is_file():
        config = SegmenterConfig.load(described)
    elif sam3:
        config = SegmenterConfig("sam3", compute_dtype="bfloat16")
    else:
        shapes = TensorFiles([path]).shapes
        config = sam2_by_trunk({name.removeprefix(SAM2): shape for name, shape in shapes.items()}, path.parent)
    segmenter = Segmenter(config)
    load_weights(config.family, segmenter.model, path)
    return segmenter


class TokenRows(TensorFiles):
    """A checkpoint's tensors, with rows of new tokens in the tables that `grow` names."""

    def __init__(self, files: list[Path], tokens: list[int], known: int, seed: int) -> None:
        """``tokens``: ids whose rows are new; ``known``: how many ids the tokenizer had before."""
        super().__init__(files)
        self._tokens, self._known, self._seed = tokens, known, seed
        self._tables: list[str] = []
        self._rows = 0

    def grow(self, tables: list[str], rows: int) -> None:
        """From now on these tensors (rows, width) have ``rows`` rows, and new ones for the new tokens."""
        self._tables, self._rows = tables, rows
        for name in tables:
            self.shapes[name] = (rows, *self.shapes[name][1:])

    def get(self, name: str) -> Tensor:
        table = super().get(name)
        return self._grown(table) if name in self._tables else table

    def _grown(self, table: Tensor) -> Tensor:
        import torch

        old = table[: self._known].float()
        draw = torch.randn(len(self._tokens), table.shape[1], generator=torch.Generator().manual_seed(self._seed))
        grown = table.new_zeros(self._rows, table.shape[1])
        grown[: len(table)] = table
        grown[self._tokens] = (old.mean(dim=0) + NOISE * old.std(dim=0) * draw).to(table.dtype)
        return grown


def _head(segmenter: Segmenter, hidden: int, seed: int) -> Mapping[str, Any]:
    """The head's tensors by their full names, float32."""
    import torch

    from verl_ext.policy.head import build_projection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = build_projection(hidden, segmenter.prompt_width)
    head = {f"text_hidden_fcs.{name}": tensor for name, tensor in projection.state_dict().items()}
    return head | {f"grounding_encoder.{name}": tensor for name, tensor in segmenter.state_dict().items()}
