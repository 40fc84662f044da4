"""What a data set looks like on disk, declared: one YAML file a data set, no code.

Everything a split can say may also stand at the top of the stanza, for all splits. A split may be a list of layouts,
as some data sets circulate in several: the first whose files are there is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from rollout.errors import DataError

STANZA_DIR = Path(__file__).parent.parent / "datasets"
T = TypeVar("T")


@dataclass(frozen=True)
class Keys:
    """Names that the annotation file uses for the same things; an empty name means that it has no such thing."""

    videos: str = "videos"
    frames: str = "frames"
    expressions: str = "expressions"
    id: str = ""
    """Expression id, where expressions are a list; else their place in it."""
    text: str = "exp"
    anno_ids: str = "anno_id"
    type_id: str = "type_id"
    kind: str = "kind"
    clip_kind: str = ""
    """A label of the whole clip that is the kind of all its expressions (ReasonVOS: ``source``)."""


@dataclass(frozen=True)
class SplitFiles:
    """One layout of one split. Paths are relative to the data set's root."""

    annotation_format: str
    """A name registered in ``readers.annotations``."""
    frames: tuple[str, ...]
    """Patterns with ``{clip}`` and usually ``{frame}``; the first whose file (or else folder) exists is used.

    ``{video}`` is the video's file name where the annotation file gives it, ``{stem}`` the same without its suffix,
    ``*`` matches one file; a pattern that ends in a video's suffix means frames of that video."""
    annotations: str | None = None
    """A file, or a folder with one file a clip."""
    mask_format: str = "none"
    """A name registered in ``readers.masks``."""
    masks: str | None = None
    """A file or a folder, as the mask format wants it; None where the split is published without masks."""
    masks_required: bool = True
    """False: some copies come without masks, then there is no ground truth."""
    mask_files: tuple[str, ...] = ("{clip}/{frame}.png",)
    """Of ``png_folder``: patterns with ``{clip} {frame} {index} {anno} {source}``. With ``{anno}`` a file is one
    object's (any value > 0), else its values are annotation ids."""
    masks_every_frame: bool = False
    """True: a frame without a mask file is a fault; False: then no object is there."""
    foreground: str | None = None
    """ReVOS: one RLE a frame that covers everything in the foreground (for the robustness score R)."""
    select: str | None = None
    """A value that picks this split's items from files that hold several (RefCOCO), or a list of clips (ViCaS)."""
    without: str | None = None
    """An annotation file whose clips do not belong to this split (Ref-YTVOS lists its test clips in valid)."""
    numbered_masks: bool = False
    """True: masks are numbered by expression, clips and ids sorted, as in Sa2VA's ``mask_dict.pkl``."""
    target_required: bool = False
    """True: an expression without a target is a fault."""
    fps: float | None = None
    """Frames a second of the clip, where frames are taken at a known rate."""
    video_fps: float | None = None
    """The rate in which frames of videos are counted; a video of another rate is refused."""
    keys: Keys = field(default_factory=Keys)
    kind_names: dict[str, str] = field(default_factory=dict)
    """What the data set calls its kinds, by the value in the file (Ref-SAV: 0 long, 1 short)."""

    def present(self, root: Path) -> bool:
        """Whether the annotation file is there (or none is needed)."""
        if self.annotation_format == "folder":
            return root.is_dir()
        return self.annotations is not None and (root / self.annotations).exists()


@dataclass(frozen=True)
class Stanza:
    """A data set's layout."""

    name: str
    splits: dict[str, tuple[SplitFiles, ...]]
    """Layouts in which each split circulates, the official one first."""
    about: str = ""

    def split(self, name: str, root: Path | None = None) -> SplitFiles:
        """The layout of one split: the first whose annotations and masks exist under ``root``, then the first whose
        annotations do, then the first. Raises DataError with the known names."""
        if name not in self.splits:
            raise DataError(f"data set {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        layouts = self.splits[name]
        if root is None:
            return layouts[0]
        there = [f for f in layouts if f.present(root)]
        whole = [f for f in there if f.masks is None or (root / f.masks).exists()]
        return [*whole, *there, *layouts][0]


def dataset_names() -> list[str]:
    """Every data set with a stanza."""
    return sorted(p.stem for p in STANZA_DIR.glob("*.yaml"))


def load_stanza(name: str) -> Stanza:
    """The stanza called ``name``, or the one in the YAML file at that path. Raises DataError on any wrong key."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else STANZA_DIR / f"{name}.yaml"
    if not path.is_file():
        raise DataError(f"no data set called {name!r} ({path}); known: {', '.join(dataset_names())}")
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(raw, dict) or not isinstance(raw.get("splits"), dict):
        raise DataError(f"{path}: a stanza is a mapping with 'annotation_format' and 'splits'")
    content = {str(k): v for k, v in raw.items()}
    own = {k: content.pop(k) for k in ("name", "about") if k in content}
    unknown = sorted(set(content) - {"splits", *(f.name for f in fields(SplitFiles))})
    if unknown:
        known = ", ".join(f.name for f in fields(SplitFiles))
        raise DataError(f"{path}: unknown key {unknown[0]!r}; known keys are name, about, splits, {known}")
    splits = {
        str(k): tuple(_layout(content, each, f"{path}: splits.{k}") for each in (v if isinstance(v, list) else [v]))
        for k, v in content.pop("splits").items()
    }
    return Stanza(str(own.get("name", path.stem)), splits, str(own.get("about", "")))


def _layout(shared: dict[str, Any], raw: Any, where: str) -> SplitFiles:
    content = {**{k: v for k, v in shared.items() if k != "splits"}, **(raw if isinstance(raw, dict) else {})}
    for key in ("frames", "mask_files"):
        if key in content:
            content[key] = (content[key],) if isinstance(content[key], str) else tuple(content[key])
    patterns = content.setdefault("frames", ())
    places = ("{clip}", "{video}", "{stem}", "{frame}")
    if not patterns or any(not any(place in p for place in places) for p in patterns):
        raise DataError(f"{where}.frames: found {list(patterns)!r}; needs patterns with {{clip}} and {{frame}}")
    content["keys"] = _build(Keys, content.get("keys", {}), f"{where}.keys")
    content["kind_names"] = {str(k): str(v) for k, v in content.get("kind_names", {}).items()}
    return _build(SplitFiles, content, where)


def _build(cls: type[T], content: dict[str, Any], where: str) -> T:
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(known)}")
    try:
        return cls(**content)
    except TypeError as e:
        raise DataError(f"{where}: {e}") from e
