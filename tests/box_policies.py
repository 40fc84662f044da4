"""Qwen2.5-VL folders as they were published, made of those that transformers 5 writes; tiny ones in both layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

PROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "use_sliding_window",
    "max_window_layers",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "initializer_range",
    "attention_dropout",
)
VISION_KEYS = (
    "depth",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "window_size",
    "fullatt_block_indexes",
    "tokens_per_second",
    "temporal_patch_size",
)


def published(source: Path, out: Path, shards: int = 2) -> Path:
    """``source`` in the layout of Qwen2.5-VL-*-Instruct on the hub: a flat ``config.json``, weights by their old names
    in shards with an index, the processor's and the chat template's own files."""
    out.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(_flat(config)))
    _write_weights(source, out, shards)
    (out / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    template = (source / "chat_template.jinja").read_text()
    (out / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    tokens = json.loads((source / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(tokens | {"chat_template": template}))
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(source / name, out / name)
    return out


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    text, vision = config["text_config"], config["vision_config"]
    rope = text["rope_parameters"]
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **{key: text[key] for key in TEXT_KEYS if key in text},
        **{key: config[key] for key in tokens},
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "sliding_window": 32768,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "torch_dtype": "float32",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "vision_config": {key: vision[key] for key in VISION_KEYS} | {"in_chans": 3, "spatial_patch_size": 14},
    }


def _write_weights(source: Path, out: Path, shards: int) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(str(source / "model.safetensors"))
    old = {
        n.replace("model.visual.", "visual.").replace("model.language_model.", "model."): t for n, t in state.items()
    }
    names = sorted(old)
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: old[n] for n in names[i::shards]}
        save_file(part, str(out / file), metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in old.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))


def teach(recipe: Any, out: Path, steps: int = 120, batch: int = 4) -> Path:
    """The recipe's policy after a few steps on its own traces, so that some of its replies can be read: plain torch, as
    what teaches it is not what is tested. ``recipe`` must be the active one."""
    import torch
    from transformers import AutoProcessor

    from rollout.frames import load_frame_resized
    from rollout.types import Sample
    from verl_ext.policy.checkpoint import load_policy, write_policy_folder
    from verl_ext.supervised.dataset import SFTDataset

    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(recipe.policy.path)
    model = load_policy(recipe.policy.path).train()
    rows = list(SFTDataset(["train"], processor.tokenizer, None, processor))
    shown = []
    for row in rows:
        clip, pictures = Sample.from_dict(row["sample"]).clip, row["multi_modal_inputs"]["pictures"].tolist()
        images = [load_frame_resized(clip, *picture) for picture in pictures]
        shown.append(dict(processor.image_processor(images=images, return_tensors="pt")))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    for step in range(steps):
        for k in range(batch):
            i = (step * batch + k) % len(rows)
            ids, mask = rows[i]["input_ids"], rows[i]["loss_mask"].bool()
            out_logits = model(ids[None], position_ids=rows[i]["position_ids"][1:, None], use_cache=False, **shown[i])
            logits = out_logits.logits[0]
            torch.nn.functional.cross_entropy(logits[:-1][mask[1:]], ids[1:][mask[1:]]).backward()
        optimiser.step()
        optimiser.zero_grad()
    weights = dict(model.named_parameters())  # a tied output layer is not among them
    write_policy_folder(out, model.config, weights, None, None, processor, model.generation_config)
    return out
