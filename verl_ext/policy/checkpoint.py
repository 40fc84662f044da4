"""Save and load a policy folder: a plain Hugging Face Qwen3-VL folder, plus ``segmentation_head/`` inside it.

The head lives in a subfolder so that vLLM and ``from_pretrained`` read the very same folder and never meet a
parameter that they do not know.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from data_construction.atomic import make_readable
from rewards.model_files import check_folder, safetensors_header
from rollout.errors import DataError
from verl_ext.policy.head import HEAD_PREFIXES, attach_head, is_head_parameter

if TYPE_CHECKING:
    from rewards.segmenter import SegmenterConfig
    from verl_ext.policy.modeling import SegPolicyForConditionalGeneration

HEAD_FOLDER = "segmentation_head"
SCRATCH = ".new."
"""In the hidden name under which a folder is written, before it takes its place."""


def has_head(folder: str | Path) -> bool:
    return (Path(folder) / HEAD_FOLDER / "config.json").is_file()


def load_head_config(folder: str | Path) -> SegmenterConfig:
    """The segmenter's architecture, from ``segmentation_head/config.json``.

    Raises:
        DataError: the folder holds no segmentation head.
    """
    from rewards.segmenter import SegmenterConfig

    path = Path(folder) / HEAD_FOLDER / "config.json"
    if not path.is_file():
        raise DataError(
            f"{folder} has no {HEAD_FOLDER}/config.json: it is not a [SEG] policy (a box policy needs none)"
        )
    return SegmenterConfig.from_dict(json.loads(path.read_text())["segmenter"])


def load_head_state(folder: str | Path) -> dict[str, torch.Tensor]:
    """All head tensors by their full names (``text_hidden_fcs.*``, ``grounding_encoder.sam2_model.*``)."""
    path = Path(folder) / HEAD_FOLDER / "model.safetensors"
    if not path.is_file():
        raise DataError(f"{path} is missing: the head's weights were not saved with the policy")
    safetensors_header(path)
    state: dict[str, torch.Tensor] = load_file(str(path))
    strange = [n for n in state if not n.startswith(HEAD_PREFIXES)]
    if strange:
        raise DataError(f"{path}: unexpected tensors {strange[:3]}; a head holds only {HEAD_PREFIXES}")
    return state


def attach_head_from(module: torch.nn.Module, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Attach the folder's head to a loaded Qwen3-VL and make it a :class:`SegPolicyForConditionalGeneration`."""
    from verl_ext.policy.modeling import SegPolicyForConditionalGeneration

    config: Any = module.config
    device = next(module.parameters()).device
    state = load_head_state(folder)
    with torch.device("cpu"):
        attach_head(module, load_head_config(folder), config.text_config.hidden_size)
    own = {n: p for n, p in module.state_dict().items() if is_head_parameter(n)}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise DataError(f"{folder}/{HEAD_FOLDER}: missing tensors {missing[:3]}, unknown tensors {extra[:3]}")
    module.load_state_dict(state, strict=False)
    for child in (module.text_hidden_fcs, module.grounding_encoder):
        child.to(device=device, dtype=dtype)
    module.__class__ = SegPolicyForConditionalGeneration


def load_policy(folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Language model, of the class that its configuration names, and, if there is one, head; in eval mode."""
    from transformers import AutoModelForImageTextToText

    check_folder(Path(folder))
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    if has_head(folder):
        attach_head_from(model, folder, dtype)
    return model.to(device).eval()


def save_policy(model: SegPolicyForConditionalGeneration, processor: Any, folder: str | Path) -> None:
    """Write the whole policy folder atomically (a reader sees the old folder or the new one, never half)."""
    lm = {n: t for n, t in model.state_dict().items() if not is_head_parameter(n)}
    head = {n: t for n, t in model.state_dict().items() if is_head_parameter(n)}
    segmenter = model.grounding_encoder.config
    write_policy_folder(folder, model.config, lm, head, segmenter, processor, model.generation_config)


def write_policy_folder(
    folder: str | Path,
    config: Any,
    lm_state: Mapping[str, torch.Tensor],
    head_state: Mapping[str, torch.Tensor] | None,
    segmenter: SegmenterConfig | None,
    processor: Any,
    generation_config: Any = None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a policy from its parts; used for fresh policies and for exports out of FSDP shards. ``more``: small text
    files beside them, by name.

    ``config`` decides on the class, so that box policies (Qwen2.5-VL, without a head) are written as well.
    """
    from transformers import AutoModelForImageTextToText

    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    _mend(target, old)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}{SCRATCH}", dir=target.parent))
    try:
        with torch.device("meta"):
            shell = AutoModelForImageTextToText.from_config(config)
        if generation_config is not None:
            shell.generation_config = generation_config
        shell.save_pretrained(scratch, state_dict=dict(_plain(lm_state.items())))
        processor.save_pretrained(scratch)
        if head_state:
            assert segmenter is not None
            (scratch / HEAD_FOLDER).mkdir()
            save_file(dict(_plain(head_state.items())), str(scratch / HEAD_FOLDER / "model.safetensors"))
            (scratch / HEAD_FOLDER / "config.json").write_text(
                json.dumps({"segmenter": segmenter.to_dict(), "seg_token": "[SEG]"}, indent=1)
            )
        for name, text in (more or {}).items():
            (scratch / name).write_text(text, encoding="utf-8")
        os.chmod(scratch, 0o755)
        make_readable(scratch)
        if target.exists():
            os.replace(target, old)
            os.replace(scratch, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mend(target: Path, old: Path) -> None:
    """After a writer that was killed: its halves gone, and the old folder back if no new one took its place."""
    if old.exists() and not target.exists():
        os.replace(old, target)
    for left in (old, *target.parent.glob(f".{target.name}{SCRATCH}*")):
        shutil.rmtree(left, ignore_errors=True)


def _plain(items: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """As safetensors want them: on the CPU, contiguous, each with memory of its own. Copies only what is not."""
    seen: set[int] = set()
    for name, tensor in items:
        plain = tensor.detach().to("cpu").contiguous()
        memory = plain.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        yield name, plain
