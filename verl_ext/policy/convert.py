"""A released VideoSEG-O3 checkpoint (SPEC 2.7) to a policy folder of ours, shard by shard.

Released names: ``model.*`` the Qwen3-VL, ``grounding_encoder.sam2_model.*`` SAM 2 under the sam2 package's names,
``text_hidden_fcs.0|2.*`` the projection. Tensors are moved, never changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_construction.atomic import new_folder
from rewards.model_files import check_folder
from rollout.prompts import get_prompts
from verl_ext.policy.released_parts import lm_names, ready_processor, segmenter_of, source_config
from verl_ext.policy.tensor_files import TensorFiles, weight_files
from verl_ext.recipe.asking import PROMPTS_FILE, prompts_text

if TYPE_CHECKING:
    from torch import Tensor

    from rewards.segmenter import SegmenterConfig

Progress = Callable[[int, int, str], None]
SHARD_BYTES = 2 * 2**30
"""The most that is in memory at a time, but for the head (1 GB with Hiera-L)."""
LM_HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"


def convert_released(
    source: Path,
    out: Path,
    base: Path | None = None,
    segmenter: SegmenterConfig | None = None,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the policy folder ``out``, whole or not at all; returns it.

    Args:
        source: folder of the release, or its one weights file.
        base: a Qwen3-VL folder that lends configuration and tokenizer where the release has none.
        segmenter: SAM 2's architecture; by default told from the weights.

    Raises:
        DataError: tensors missing, unknown or of another shape; no configuration; tokens that the tokenizer lacks;
            ``out`` is not empty.
    """
    from verl_ext.policy.head import is_head_parameter

    for place in (source, base):
        if place is not None:
            check_folder(place)
    tensors = TensorFiles(weight_files(source))
    folder = source if source.is_dir() else source.parent
    head = {name: shape for name, shape in tensors.shapes.items() if is_head_parameter(name)}
    config = source_config(folder, base)
    if not any(name.endswith(LM_HEAD) for name in tensors.shapes):  # what a release says of tying is not always so
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    named = lm_names({n: s for n, s in tensors.shapes.items() if n not in head}, config, str(source))
    rows = tensors.shapes[named[EMBEDDINGS]][0]
    config.text_config.vocab_size = rows
    settle_tying(config, named, tensors)
    segmenter = segmenter_of(head, config.text_config.hidden_size, folder, segmenter)
    processor = ready_processor(folder, base, rows)
    with new_folder(out) as partial:
        report = progress or (lambda done, total, what: None)
        write_lm(partial, named, tensors, shard_bytes, report)
        write_head(partial, {name: tensors.get(name) for name in sorted(head)}, segmenter)
        report(len(tensors.shapes), len(tensors.shapes), "converting")
        write_facts(partial, config, processor, (folder, base))
        (partial / PROMPTS_FILE).write_text(prompts_text(get_prompts("release_form").to_dict()), encoding="utf-8")
    return out


def write_facts(folder: Path, config: Any, processor: Any, sources: Sequence[Path | None]) -> None:
    """What a policy folder holds beside weights; generation settings are those of the first source that has any."""
    config.architectures = ["Qwen3VLForConditionalGeneration"]
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    for place in sources:
        if place is not None and (place / "generation_config.json").is_file():
            shutil.copy(place / "generation_config.json", folder)
            return


def settle_tying(config: Any, named: dict[str, str], tensors: TensorFiles) -> None:
    """A release may hold an output layer beside tied embeddings: a copy, or one that was trained on its own."""
    if not config.tie_word_embeddings or LM_HEAD not in named:
        return
    if tensors.get(named[LM_HEAD]).equal(tensors.get(named[EMBEDDINGS])):
        del named[LM_HEAD]
        return
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False


def write_lm(
    folder: Path, named: dict[str, str], tensors: TensorFiles, shard_bytes: int, report: Callable[[int, int, str], None]
) -> None:
    """``model*.safetensors`` of ``named`` (our name -> name in ``tensors``), one shard in memory at a time."""
    from safetensors.torch import save_file

    shards = list(_shards(named, tensors, shard_bytes))
    index: dict[str, str] = {}
    total = done = 0
    for i, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        held = {name: tensors.get(named[name]) for name in names}
        total += sum(t.numel() * t.element_size() for t in held.values())
        save_file(held, str(folder / file), metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
        done += len(names)
        report(done, len(tensors.shapes), "converting")
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=1))


def _shards(named: dict[str, str], tensors: TensorFiles, shard_bytes: int) -> Iterator[list[str]]:
    """Names in groups of at most ``shard_bytes``, four bytes a number being the most that any has."""
    group: list[str] = []
    size = 0
    for name in sorted(named):
        count = 4
        for side in tensors.shapes[named[name]]:
            count *= side
        if group and size + count > shard_bytes:
            yield group
            group, size = [], 0
        group.append(name)
        size += count
    yield group


def write_head(folder: Path, head: Mapping[str, Tensor], segmenter: SegmenterConfig) -> None:
    """``segmentation_head/`` of a policy folder."""
    from safetensors.torch import save_file

    from verl_ext.policy.checkpoint import HEAD_FOLDER

    (folder / HEAD_FOLDER).mkdir()
    save_file(dict(head), str(folder / HEAD_FOLDER / "model.safetensors"))
    content = {"segmenter": segmenter.to_dict(), "seg_token": "[SEG]"}
    (folder / HEAD_FOLDER / "config.json").write_text(json.dumps(content, indent=1))
