"""What a data set looks like on disk, declared: one YAML file a data set, no code."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from rollout.errors import DataError

STANZA_DIR = Path(__file__).parent.parent / "datasets"
T = TypeVar("T")


@dataclass(frozen=True)
class SplitFiles:
    """Paths of one split, relative to the data set's root."""

    frames: tuple[str, ...]
    """Patterns with ``{clip}`` and ``{frame}``; the first whose clip folder exists is used."""
    annotations: str | None = None
    masks: str | None = None
    """A file or a folder, as the mask format wants it; None where the split is published without masks."""
    foreground: str | None = None
    """ReVOS: one RLE a frame that covers everything in the foreground (for the robustness score R)."""


@dataclass(frozen=True)
class Keys:
    """Names that the annotation file uses for the same things."""

    videos: str = "videos"
    frames: str = "frames"
    expressions: str = "expressions"
    text: str = "exp"
    anno_ids: str = "anno_id"
    type_id: str = "type_id"
    kind: str = "kind"


@dataclass(frozen=True)
class Stanza:
    """A data set's layout."""

    name: str
    annotation_format: str
    """A name registered in ``readers.annotations``."""
    mask_format: str
    """A name registered in ``readers.masks``."""
    splits: dict[str, SplitFiles]
    about: str = ""
    keys: Keys = field(default_factory=Keys)

    def split(self, name: str) -> SplitFiles:
        """The files of one split. Raises DataError with the known names."""
        if name not in self.splits:
            raise DataError(f"data set {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


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
        raise DataError(f"{path}: a stanza is a mapping with 'annotation_format', 'mask_format' and 'splits'")
    content = {str(k): v for k, v in raw.items()}
    splits = {str(k): _split(v, f"{path}: splits.{k}") for k, v in content.pop("splits").items()}
    keys = _build(Keys, content.pop("keys", {}), f"{path}: keys")
    return _build(Stanza, {"name": path.stem, **content, "splits": splits, "keys": keys}, str(path))


def _split(raw: Any, where: str) -> SplitFiles:
    content = dict(raw) if isinstance(raw, dict) else {}
    patterns = content.get("frames", ())
    content["frames"] = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not content["frames"] or any("{clip}" not in p or "{frame}" not in p for p in content["frames"]):
        raise DataError(f"{where}.frames: found {patterns!r}; needs one or more patterns with {{clip}} and {{frame}}")
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
