"""What a data set looks like on disk, declared: one YAML file a data set, no code.

Everything a split can say may also stand at the top of the stanza, for all splits. A split may be a list of layouts,
as some data sets circulate in several: the first whose files are there is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from data_construction.readers.stanza_values import check_places, read_yaml, typed
from rollout.errors import DataError

STANZA_DIR = Path(__file__).parent.parent / "datasets"
FRAME_PLACES = {"clip": "c", "frame": "f", "video": "v.mp4", "stem": "v", "source": "s"}
MASK_PLACES = {"clip": "c", "frame": "f", "index": 0, "anno": "1", "source": "s"}
"""What patterns may hold, each with a value of its kind."""
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
    legible: str = "legible"
    """Frame indices in which what an expression names can be told (synthetic worlds say so)."""
    clip_kind: str = ""
    """A label of the whole clip that is the kind of all its expressions (ReasonVOS: ``source``)."""


@dataclass(frozen=True)
class SplitFiles:
    """One layout of one split. Paths are relative to the data set's root."""

    annotation_format: str
    """A name registered in ``readers.annotations``."""
    frames: tuple[str, ...]
    """Patterns with ``{clip} {frame} {video} {stem} {source}``, usually the first two. The first whose file (or else
    folder) exists is used.

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
    unmasked_frames_left_out: bool = False
    """True: the data set's own tool scores only the frames that have a mask file (ReasonVOS), and so do scorers."""
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

    expected: dict[str, int] = field(default_factory=dict)
    """How many ``clips``, ``frames`` and ``expressions`` there are; the check compares."""

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
    splits_are_sources: bool = False
    """True: splits are where samples come from (GCG, VTS-CoT), all for training, so they may have clips in common."""
    file: Path | None = None
    """Its own YAML file, where it is none of those that are shipped."""

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
    raw = read_yaml(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("splits"), dict):
        raise DataError(f"{path}: a stanza is a mapping with 'annotation_format' and 'splits'")
    content = {str(k): v for k, v in raw.items()}
    own = {k: typed(content.pop(k), kind, f"{path}: {k}") for k, kind in OWN.items() if k in content}
    unknown = sorted(set(content) - {"splits", *(f.name for f in fields(SplitFiles))})
    if unknown:
        known = ", ".join([*OWN, "splits", *(f.name for f in fields(SplitFiles))])
        raise DataError(f"{path}: unknown key {unknown[0]!r}; known keys are {known}")
    splits = {
        str(k): tuple(_layout(content, each, f"{path}: splits.{k}") for each in (v if isinstance(v, list) else [v]))
        for k, v in content.pop("splits").items()
    }
    empty = [k for k, layouts in splits.items() if not layouts]
    if empty:
        raise DataError(f"{path}: splits.{empty[0]}: found no layout; give a mapping, or a list of them")
    file = None if path.parent == STANZA_DIR else path.absolute()
    return Stanza(**{"name": path.stem, **own}, splits=splits, file=file)


OWN: dict[str, Any] = {"name": str, "about": str, "splits_are_sources": bool}
"""What a stanza says of the whole data set."""


def _layout(shared: dict[str, Any], raw: Any, where: str) -> SplitFiles:
    if not isinstance(raw, (dict, type(None))):
        raise DataError(f"{where}: found {raw!r}; a split is a mapping, or a list of them")
    content = {**{k: v for k, v in shared.items() if k != "splits"}, **(raw or {})}
    if "annotation_format" not in content:
        raise DataError(f"{where}: needs an 'annotation_format', here or for all splits")
    for key, places in (("frames", FRAME_PLACES), ("mask_files", MASK_PLACES)):
        if key in content:
            given = [content[key]] if isinstance(content[key], str) else content[key]
            content[key] = typed(tuple(given) if isinstance(given, list) else given, tuple, f"{where}.{key}")
            check_places(content[key], places, f"{where}.{key}")
    patterns = content.setdefault("frames", ())
    places_there = ("{clip", "{video", "{stem", "{frame")
    if not patterns or any(not any(place in p for place in places_there) for p in patterns):
        raise DataError(f"{where}.frames: found {patterns!r}; needs patterns with {{clip}} and {{frame}}")
    keys = content.get("keys", {})
    content["keys"] = _build(Keys, typed(keys, dict, f"{where}.keys"), f"{where}.keys")
    kinds = typed(content.get("kind_names", {}), dict, f"{where}.kind_names")
    content["kind_names"] = {str(k): str(v) for k, v in kinds.items()}
    counts = typed(content.get("expected", {}), dict, f"{where}.expected")
    content["expected"] = {str(k): typed(n, int, f"{where}.expected.{k}") for k, n in counts.items()}
    if content["expected"].keys() - {"clips", "frames", "expressions"}:
        raise DataError(f"{where}.expected: found {counts!r}; wants some of clips, frames, expressions")
    return _build(SplitFiles, content, where)


def _build(cls: type[T], content: dict[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(hints)}")
    try:
        return cls(**{k: typed(v, hints[k], f"{where}.{k}") for k, v in content.items()})
    except TypeError as e:
        raise DataError(f"{where}: {e}") from e
