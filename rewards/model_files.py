"""Is this the file I think it is? Asked once of every model file, before anything is loaded from it. No torch.

What people really have in place of a model: git-lfs pointers, a download that broke off, an adapter without its base, a
shard that is missing, a training checkpoint's folder, another SAM 2. Each is answered by its name, with the remedy.
"""

from __future__ import annotations

import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rollout.errors import DataError

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
TEXTS = (".json", ".txt", ".jinja", ".model")
POINTER = b"version https://git-lfs.github.com/spec/"
ADAPTER_CONFIG = "adapter_config.json"
SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\.\w+)")
EMBEDDINGS, OUTPUT = "embed_tokens.weight", "lm_head.weight"
SAM2_TRUNK = "image_encoder.trunk."
SAM2_BLOCKS = f"{SAM2_TRUNK}blocks."
PRESET_OF_BLOCKS = {12: "sam2.1_hiera_t", 16: "sam2.1_hiera_s", 24: "sam2.1_hiera_b+", 48: "sam2.1_hiera_l"}
ONLY_IN_SAM_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.")
SAM3_TRUNK = "vision_encoder.backbone.layers."
SAM3_NECK = ("vision_encoder.neck.fpn_layers.", "tracker_neck.fpn_layers.")
SAM3_REMEDY = "give SAM 3 in the form of Hugging Face's transformers, for example facebook/sam3's model.safetensors"
SAM2_REMEDY = "give SAM 2.1's weights as Meta publishes them, for example sam2.1_hiera_large.pt"


def check_file(file: Path) -> None:
    """One file of a model, by its first bytes and its length.

    Raises:
        DataError: it cannot be read, or is something else; says what, and what to do.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as f:
            start = f.read(512)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); give a file that this user may read") from error
    if start.startswith(POINTER):
        wanted = re.search(rb"^size (\d+)", start, re.MULTILINE)
        real = f" of {int(wanted[1]):,} bytes" if wanted else ""
        raise DataError(
            f"{file}: is a git-lfs pointer, a note of {size} bytes that stands for the file{real}; run `git lfs "
            f"install` and `git lfs pull` in {file.parent}, or download the file itself"
        )
    if start.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        raise DataError(f"{file}: is a git-annex pointer, not the file; run `git annex get` in {file.parent}")
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(
            f"{file}: is a web page, not a model file (a download that asked to log in?); download it again"
        )
    if size == 0:
        raise DataError(f"{file}: is empty; download it again")


def check_folder(folder: Path) -> None:
    """A model's folder in Hugging Face layout; a single weights file, or a folder that is not there, passes.

    Raises:
        DataError: a file is something else, is cut short or missing, or the whole is no model.
    """
    if not folder.is_dir():
        if folder.is_file():
            check_file(folder)
        return
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (*WEIGHTS, *TEXTS))
    for file in files:
        check_file(file)
    weights = [file for file in files if file.suffix in WEIGHTS]
    _check_is_model(folder, {file.name for file in weights})
    _check_shards(folder, {file.name for file in weights})
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weights:
        if file.suffix == ".safetensors":
            shapes |= {name: tuple(entry["shape"]) for name, entry in safetensors_header(file).items()}
    check_rows(shapes, str(folder))


def check_rows(shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Token embeddings and output layer must be of one length, or neither transformers nor vLLM load them.

    Raises:
        DataError: they are not; gives both numbers of rows.
    """
    found = {end: shape for end in (EMBEDDINGS, OUTPUT) for name, shape in shapes.items() if name.endswith(end)}
    if len(found) == 2 and found[EMBEDDINGS][:1] != found[OUTPUT][:1]:
        raise DataError(
            f"{where}: its token embeddings have {found[EMBEDDINGS][0]} rows, its output layer {found[OUTPUT][0]}: "
            "they must be as long as each other; save the model again after resize_token_embeddings, which sets both"
        )


def safetensors_header(file: Path, whole: bool = True) -> dict[str, Any]:
    """Name -> ``{"dtype", "shape", ...}``.

    Raises:
        DataError: the file is no safetensors file, or (where ``whole`` matters) not all of it is there.
    """
    check_file(file)
    try:
        with file.open("rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            if length > file.stat().st_size:
                raise ValueError(f"a header of {length} bytes")
            header = dict(json.loads(f.read(length)))
    except (OSError, struct.error, ValueError, TypeError) as error:
        raise DataError(f"{file}: is not a safetensors file ({error}); copy the checkpoint again") from error
    header.pop("__metadata__", None)
    if not whole:
        return header
    wanted = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if (size := file.stat().st_size) < wanted:
        raise DataError(f"{file}: is cut short, {size:,} of {wanted:,} bytes are there; download it again")
    return header


def tensor_names(file: Path) -> list[str]:
    """Names in a ``.safetensors`` or ``.pt`` file (of the latter all its strings), read without loading a tensor.

    A ``.pt`` file of the format before torch 1.6 tells none. Raises DataError for a file that is something else.
    """
    if file.suffix == ".safetensors":
        return list(safetensors_header(file))
    check_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            inside = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return [str(arg) for name in inside for _, arg, _ in pickletools.genops(archive.read(name)) if arg]
    except zipfile.BadZipFile:
        return []


def check_sam2(file: Path, preset: str | None = None) -> None:
    """A file of SAM 2's weights; that all of them fit is checked when they are loaded.

    Args:
        preset: which of the published SAM 2.1 it has to be; None for any.

    Raises:
        DataError: it is not there, or holds another model than SAM 2.1, or another size of it.
    """
    if preset is not None and preset.startswith("sam3"):
        return check_sam3(file)
    if file.is_dir():
        raise DataError(f"{file}: is a folder{_as_hugging_face(file)}; {SAM2_REMEDY}")
    if not file.is_file():
        raise DataError(f"{file}: no such file; give SAM 2's weights, for example sam2.1_hiera_large.pt")
    names = tensor_names(file)
    check_sam2_names(names, file)
    blocks = {name.split(SAM2_BLOCKS)[1].split(".")[0] for name in names if SAM2_BLOCKS in name}
    found = PRESET_OF_BLOCKS.get(len(blocks))
    if preset is not None and found is not None and found != preset:
        raise DataError(f"{file}: holds {found}, not {preset}; set pool.preset={found}, or give that one's weights")


def check_sam3(file: Path) -> None:
    """A file, or a folder of files, of SAM 3's weights; that all of them fit is checked when they are loaded.

    Raises:
        DataError: it is not there, or holds another model than SAM 3 with its tracker.
    """
    if not file.exists():
        raise DataError(f"{file}: no such file; {SAM3_REMEDY}")
    files = sorted(file.glob("*.safetensors")) if file.is_dir() else [file]
    names = [name for one in files for name in tensor_names(one)]
    if any(SAM2_TRUNK in name for name in names):
        raise DataError(f"{file}: holds SAM 2, not SAM 3; set the preset to one of SAM 2's, or {SAM3_REMEDY}")
    if not _is_sam3(names):
        raise DataError(f"{file}: holds another model than SAM 3; {SAM3_REMEDY}")
    if not any("memory_attention.layers." in name for name in names):
        raise DataError(f"{file}: holds SAM 3's detector without its tracker; {SAM3_REMEDY}")


def holds_sam3(file: Path) -> bool:
    """Whether a file, or a folder of files, is of SAM 3 rather than SAM 2. Raises DataError where it cannot be read."""
    files = sorted(file.glob("*.safetensors")) if file.is_dir() else [file] if file.is_file() else []
    return _is_sam3([name for one in files for name in tensor_names(one)])


def _is_sam3(names: Collection[str]) -> bool:
    return any(SAM3_TRUNK in n for n in names) and any(neck in n for n in names for neck in SAM3_NECK)


def check_sam2_names(names: Collection[str], file: Path) -> None:
    """The same for tensor names that are known already. Raises DataError."""
    if not names:
        return
    if any(SAM2_TRUNK in name for name in names):
        if not any(mark in name for mark in ONLY_IN_SAM_2_1 for name in names):
            raise DataError(
                f"{file}: holds SAM 2.0, which lacks what 2.1 added ({', '.join(ONLY_IN_SAM_2_1)}*); {SAM2_REMEDY}"
            )
    elif _is_sam3(names):
        raise DataError(f"{file}: holds SAM 3, not SAM 2; set the preset to sam3, or {SAM2_REMEDY}")
    elif any("vision_encoder.backbone." in name or name.startswith("memory_attention.layers.") for name in names):
        raise DataError(f"{file}: holds SAM 2 in the form of Hugging Face's transformers; {SAM2_REMEDY}")
    elif any(name.startswith("image_encoder.") or "vision_encoder." in name for name in names):
        raise DataError(f"{file}: holds the first SAM, or another of its kind, not SAM 2.1; {SAM2_REMEDY}")


def _as_hugging_face(folder: Path) -> str:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" in the form of Hugging Face's transformers ({kind})"


def _check_is_model(folder: Path, weights: Iterable[str]) -> None:
    """Raises DataError for folders that hold something of a model, but not the model."""
    whole = [name for name in weights if not name.startswith("adapter_") and name != "training_args.bin"]
    if (folder / ADAPTER_CONFIG).is_file() and not whole:
        try:
            base = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None
        raise DataError(
            f"{folder}: is a LoRA adapter of {base or 'another model'}, not a model; merge it into that model first "
            "(peft: merge_and_unload, then save_pretrained; LLaMA-Factory: export) and give the merged folder"
        )
    if whole:
        return
    if any(folder.glob("*.gguf")):
        raise DataError(f"{folder}: holds GGUF files, which only llama.cpp reads; give the safetensors of the model")
    for inner in (folder / "policy", folder.parent / "policy"):
        if not (folder / "config.json").is_file() and (inner / "config.json").is_file():
            raise DataError(f"{folder}: is a training checkpoint, not a policy; its policy is {inner}")


def _check_shards(folder: Path, weights: Collection[str]) -> None:
    """Raises DataError if the index, or the shards' own numbers, name files that are not there."""
    wanted: set[str] = set()
    for index in sorted(folder.glob("*.index.json")):
        try:
            listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: cannot be read ({error}); download it again") from error
        # none of them: of another form of the weights, which was left out on purpose
        wanted |= listed if listed & set(weights) or not weights else set()
    for match in filter(None, map(SHARD.fullmatch, weights)):
        stem, number, count, suffix = match.groups()
        wanted |= {f"{stem}-{i:0{len(number)}d}-of-{count}{suffix}" for i in range(1, int(count) + 1)}
    if missing := sorted(wanted - set(weights)):
        raise DataError(
            f"{folder}: {len(missing)} of {len(wanted)} weight files are missing, the first is {missing[0]}; download "
            "the model again (what is there is kept)"
        )
