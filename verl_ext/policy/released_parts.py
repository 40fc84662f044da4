"""What a released checkpoint consists of: its configuration, its names, its SAM 2, its tokens. All checked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_construction.readers.files import read_json
from rewards.model_files import check_rows
from rollout.errors import DataError

if TYPE_CHECKING:
    from rewards.segmenter import SegmenterConfig

Shapes = Mapping[str, tuple[int, ...]]
ADDED_TOKENS = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
"""In the order in which the release added them to Qwen3-VL's tokenizer (SPEC 2.2)."""
PROCESSOR_FILES = (".json", ".txt", ".jinja", ".model")
SAM2 = "grounding_encoder.sam2_model."
TRUNKS = {
    (96, 12): "sam2.1_hiera_t",
    (96, 16): "sam2.1_hiera_s",
    (112, 24): "sam2.1_hiera_b+",
    (144, 48): "sam2.1_hiera_l",
}
"""(channels of the first stage, blocks) of each SAM 2's image encoder."""
NAMINGS: tuple[Callable[[str], str], ...] = (lambda n: n.removeprefix("model."), lambda n: n)
"""Released language-model name -> its name in Qwen3VLForConditionalGeneration."""


OF_A_RELEASE = ("auto_map", "architectures", "template", "_name_or_path", "transformers_version", "model_type")
"""Keys of a released config.json that say which code it was written for; we read it with transformers' own."""


def source_config(folder: Path, base: Path | None) -> Any:
    """The Qwen3-VL configuration: that of ``base``, where one is named, else the release's own.

    A release puts a type of its own on top, or the whole of it inside another mapping: what has a text and a vision
    part is a model, whatever types these say. Raises DataError if there is none.
    """
    from transformers import Qwen3VLConfig

    for place in (base, folder):
        if place is None or not (place / "config.json").is_file():
            continue
        content = read_json(place / "config.json")
        for candidate in (content, *content.values()) if isinstance(content, dict) else ():
            if _is_qwen3_vl(candidate):
                parts = {key: _without_code(candidate[key]) for key in ("text_config", "vision_config")}
                return Qwen3VLConfig.from_dict({**_without_code(candidate), **parts})
    raise DataError(
        f"{folder}: no config.json of a Qwen3-VL there; name the Qwen3-VL folder that it was trained from with --base"
    )


def _is_qwen3_vl(candidate: Any) -> bool:
    if not isinstance(candidate, dict):
        return False
    text, vision = candidate.get("text_config"), candidate.get("vision_config")
    if not (isinstance(text, dict) and isinstance(vision, dict)):
        return False
    said = text.get("model_type", candidate.get("model_type", ""))
    return str(said).startswith("qwen3_vl")


def _without_code(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in OF_A_RELEASE}


def lm_names(shapes: Shapes, config: Any, where: str) -> dict[str, str]:
    """Our name -> released name of every language and vision tensor.

    Raises:
        DataError: tensors that the configuration asks for are missing, others are unknown, or shapes differ.
    """
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    with torch.device("meta"):
        expected = {n: tuple(t.shape) for n, t in Qwen3VLForConditionalGeneration(config).state_dict().items()}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    named, missing, unknown = min(
        (_compare({rename(n): n for n in shapes}, expected, tied) for rename in NAMINGS),
        key=lambda found: len(found[1]) + len(found[2]),
    )
    check_rows({ours: shapes[theirs] for ours, theirs in named.items()}, where)
    if missing or unknown:
        raise DataError(
            f"{where}: not the weights of this Qwen3-VL: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}"
        )
    for ours, theirs in named.items():
        found, wanted = shapes[theirs], expected[ours]
        by_rows = ours.endswith(("embed_tokens.weight", "lm_head.weight")) and found[1:] == wanted[1:]
        if found != wanted and not by_rows:  # rows follow the tokenizer
            raise DataError(f"{where}: {theirs} is {found}, the configuration says {wanted}; is --base another size?")
    return named


def _compare(named: dict[str, str], expected: Shapes, tied: set[str]) -> tuple[dict[str, str], list[str], list[str]]:
    return named, sorted(expected.keys() - named.keys() - tied), sorted(named.keys() - expected.keys())


def segmenter_of(head: Shapes, hidden: int, folder: Path, given: SegmenterConfig | None) -> SegmenterConfig:
    """SAM 2's architecture, told from the image encoder's shapes; every head tensor is checked against it.

    A ``segmenter.json`` in the folder (as `SegmenterConfig.save` writes) or ``given`` take the place of the guess.
    """
    from rewards.segmenter import Segmenter, SegmenterConfig
    from verl_ext.policy.head import build_projection

    config = given
    if config is None and (folder / "segmenter.json").is_file():
        config = SegmenterConfig.load(folder / "segmenter.json")
    if config is None:
        config = sam2_by_trunk({n.removeprefix(SAM2): shape for n, shape in head.items()}, folder)
    parts = {
        "text_hidden_fcs.": build_projection(hidden, config.prompt_width),
        "grounding_encoder.": Segmenter(config),
    }
    expected = {f"{p}{n}": tuple(t.shape) for p, module in parts.items() for n, t in module.state_dict().items()}
    missing, unknown = sorted(expected.keys() - head.keys()), sorted(head.keys() - expected.keys())
    reshaped = [n for n in expected.keys() & head.keys() if expected[n] != head[n]]
    if missing or unknown or reshaped:
        raise DataError(
            f"{folder}: its head does not fit {config.preset}: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}, {len(reshaped)} of another shape {reshaped[:2]}"
        )
    return config


def sam2_by_trunk(shapes: Shapes, folder: Path) -> SegmenterConfig:
    """The published SAM 2 that has this image encoder, from tensors under the sam2 package's own names.

    Raises:
        DataError: none has it.
    """
    from rewards.segmenter import SegmenterConfig

    trunk = "image_encoder.trunk."
    stem = shapes.get(f"{trunk}patch_embed.proj.weight", (0,))
    blocks = {n.split(".blocks.")[1].split(".")[0] for n in shapes if n.startswith(f"{trunk}blocks.")}
    if (stem[0], len(blocks)) not in TRUNKS:
        raise DataError(
            f"{folder}: its SAM 2 has {stem[0]} channels and {len(blocks)} blocks, which is none of "
            f"{', '.join(TRUNKS.values())}; describe it in {folder}/segmenter.json"
        )
    return SegmenterConfig(preset=TRUNKS[stem[0], len(blocks)], compute_dtype="bfloat16")


def ready_processor(folder: Path, base: Path | None, rows: int) -> Any:
    """The processor with the release's tokens, and limits under which no frame is ever resized again.

    The release's own tokenizer must have the added tokens; a base's gets them, in the order of the release.
    """
    own = (folder / "tokenizer_config.json").is_file() and (folder / "preprocessor_config.json").is_file()
    place = folder if own or (folder / "processor_config.json").is_file() else base
    if place is None:
        raise DataError(f"{folder}: no tokenizer and processor there; name a Qwen3-VL folder with --base")
    processor = load_processor(place)
    missing = add_tokens(processor)
    if missing and place is folder:
        raise DataError(f"{folder}: its tokenizer lacks {', '.join(missing)}; copy the release's tokenizer files")
    ids = {t: processor.tokenizer.encode(t, add_special_tokens=False) for t in ADDED_TOKENS}
    for token, found in ids.items():
        if len(found) != 1 or found[0] >= rows:
            raise DataError(
                f"{place}: token {token} has ids {found}, but the weights have {rows} rows; wrong tokenizer?"
            )
    return processor


def load_processor(folder: Path) -> Any:
    """The Qwen3-VL processor of a folder; no code that lies there is run, nor does anybody ask whether to.

    Raises:
        DataError: it cannot be read.
    """
    from transformers import AutoProcessor, Qwen3VLConfig

    with tempfile.TemporaryDirectory() as scratch:
        for file in folder.iterdir():
            if file.suffix == ".json" and file.name not in ("config.json", "generation_config.json"):
                content = read_json(file)
                if isinstance(content, dict) and "auto_map" in content:
                    content = {key: value for key, value in content.items() if key != "auto_map"}
                    (Path(scratch) / file.name).write_text(json.dumps(content), encoding="utf-8")
                    continue
            if file.is_file() and file.suffix in PROCESSOR_FILES and file.name != "config.json":
                shutil.copy(file, scratch)
        Qwen3VLConfig().save_pretrained(scratch)  # by which transformers tells the kind
        try:
            return AutoProcessor.from_pretrained(scratch, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{folder}: its tokenizer and processor cannot be read ({e}); copy them again") from e


def add_tokens(processor: Any) -> list[str]:
    """Add those of `ADDED_TOKENS` that the tokenizer lacks, and return them; frames are never resized from then on."""
    from transformers import AddedToken

    from rollout.chat_format import ChatFormat

    tokenizer = processor.tokenizer
    missing = [t for t in ADDED_TOKENS if t not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in missing], special_tokens=True)
    processor.image_processor.size = ChatFormat.from_tokenizer(tokenizer).processor_size()
    return missing
