"""Prompt sets: what the system and user messages say around the frames (SPEC 2.1, 3).

A set is a YAML file: those that are shipped lie in ``rollout/prompt_sets``, a user's own is named by its path. ``full``
explains the whole task and suits a pretrained model; ``brief`` is a few words, for a tiny model that learns the
protocol from examples and to which every word costs a token; ``stamped`` (for ``[SEG]``) is the same with each frame's
number before it; ``release_form`` asks in the form in which the released policies were trained. A set can also be made
in code and given to `register_prompts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rollout.control_text import SEG_TOKEN
from rollout.errors import RecipeError
from rollout.messages import FramePart, Message, Part, TextPart

FOLDER = Path(__file__).parent / "prompt_sets"
SUFFIXES = (".yaml", ".yml")
UNITS = ("", "pixels", "thousandths")
_FIELD = re.compile(r"\{([A-Za-z_]+)\}")


def filled(template: str, values: dict[str, Any]) -> str:
    """``template`` with every ``{name}``; any other brace stays as it is."""
    return _FIELD.sub(lambda found: str(values[found[1]]), template)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both kinds of set have. Templates hold fields in braces; a brace around anything else is text."""

    kind: ClassVar[str] = ""
    """The folder of its shipped sets."""
    called: ClassVar[str] = "prompt set"
    shipped: ClassVar[tuple[str, ...]] = ()
    known: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Template -> its fields."""
    needed: ClassVar[Mapping[str, str]] = {}
    """Template -> the field without which it asks nothing."""
    name: str
    system: str
    lower_case: bool = False
    """The query is put in lower case."""
    strip_point: bool = False
    """The query loses the points and spaces at its ends."""

    def check(self) -> None:
        """Raises `RecipeError` that names the template for what could not be asked or would corrupt a dialogue."""
        for name, known in self.known.items():
            unknown = [f for f in _FIELD.findall(getattr(self, name)) if f not in known]
            if unknown:
                may = ", ".join(f"{{{f}}}" for f in known)
                raise RecipeError(f"prompt set {self.name}: {name} has the field {{{unknown[0]}}}; it may have {may}")
        for name, needed in self.needed.items():
            if f"{{{needed}}}" not in getattr(self, name):
                raise RecipeError(f"prompt set {self.name}: {name} has no {{{needed}}}")
        for name, text in self.to_dict().items():
            if isinstance(text, str) and "<|" in text:
                raise RecipeError(f"prompt set {self.name}: {name} holds control text '<|'; the chat adds it itself")

    def as_asked(self, query: str) -> str:
        """The query in this set's form."""
        query = query.lower() if self.lower_case else query
        return query.strip(". ") if self.strip_point else query

    def to_dict(self) -> dict[str, Any]:
        """As a file of it is written."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


@dataclass(frozen=True, kw_only=True)
class PromptSet(Asked):
    """For ``[SEG]`` policies. Fields: ``{frames}`` (indices) and ``{count}`` of the lines below frames; ``{query}``,
    ``{num_frames}`` and ``{last}`` of the question and the reminder; ``{frame}`` of the stamp, which stands before each
    frame, as Qwen3-VL's own videos have it. A line or stamp that is empty is left out."""

    kind: ClassVar[str] = "masks"
    shipped: ClassVar[tuple[str, ...]] = ("brief", "full", "release_form", "stamped")
    known: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stamp": ("frame",),
        **dict.fromkeys(("temporal", "spatial", "interval", "keyframe"), ("frames", "count")),
        **dict.fromkeys(("question", "reminder"), ("query", "num_frames", "last")),
    }
    needed: ClassVar[Mapping[str, str]] = {"question": "query"}
    temporal: str
    spatial: str
    question: str
    interval: str
    keyframe: str
    reminder: str
    index_separator: str = ", "
    stamp: str = ""

    def check(self) -> None:
        super().check()
        for name in self.known:
            if SEG_TOKEN in getattr(self, name):
                raise RecipeError(f"prompt set {self.name}: {name} holds {SEG_TOKEN}, which only the policy may write")

    def system_message(self) -> Message:
        """The task and the tags."""
        return Message.text("system", self.system)

    def first_user_parts(
        self, temporal: Sequence[FramePart], spatial: Sequence[FramePart], query: str, num_frames: int
    ) -> list[Part]:
        """Low-resolution frames and their indices, spatial frames and theirs, then the question."""
        asked = TextPart(self._asked(self.question, query, num_frames))
        return [*self._shown(temporal, self.temporal), *self._shown(spatial, self.spatial), asked]

    def follow_up_parts(
        self, interval: Sequence[FramePart], keyframe: FramePart, query: str, num_frames: int
    ) -> list[Part]:
        """Low-resolution frames of the interval and their indices, the keyframe and its index, the query again."""
        asked = TextPart(self._asked(self.reminder, query, num_frames))
        return [*self._shown(interval, self.interval), *self._shown([keyframe], self.keyframe), asked]

    def _asked(self, template: str, query: str, num_frames: int) -> str:
        return filled(template, {"query": self.as_asked(query), "num_frames": num_frames, "last": num_frames - 1})

    def _shown(self, frames: Sequence[FramePart], template: str) -> list[Part]:
        if not frames:
            return []
        indices = self.index_separator.join(str(f.frame) for f in frames)
        parts: list[Part] = []
        for frame in frames:
            parts += [TextPart(filled(self.stamp, {"frame": frame.frame})), frame] if self.stamp else [frame]
        line = filled(template, {"frames": indices, "count": len(frames)})
        return [*parts, TextPart(line)] if line else parts


@dataclass(frozen=True, kw_only=True)
class BoxPromptSet(Asked):
    """For box policies: ``opening``, then each frame after its ``stamp`` (``{time}`` in seconds), then the question.

    Fields of the texts: ``{query}``, ``{count}`` of frames, ``{seconds}`` of the clip, ``{side}`` of a frame, and
    ``{coordinates}``, which says in words what boxes are in.
    """

    kind: ClassVar[str] = "boxes"
    called: ClassVar[str] = "box prompts"
    shipped: ClassVar[tuple[str, ...]] = ("full", "brief", "release_form")
    known: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stamp": ("time",),
        **dict.fromkeys(("system", "opening", "question"), ("query", "count", "seconds", "side", "coordinates")),
    }
    needed: ClassVar[Mapping[str, str]] = {"question": "query", "stamp": "time"}
    stamp: str
    question: str
    opening: str = ""
    separator: str = ""
    """Between a frame and the next one's stamp."""
    units: str = ""
    """``pixels`` or ``thousandths``: what boxes are in; empty: as the recipe says."""

    def check(self) -> None:
        super().check()
        if self.units not in UNITS:
            raise RecipeError(
                f"prompt set {self.name}: units = {self.units!r}; expected pixels, thousandths or nothing"
            )

    def messages(
        self, frames: Sequence[FramePart], times: Sequence[int], query: str, seconds: int, coordinates: str
    ) -> list[Message]:
        """System (unless it is empty) and user message."""
        side = frames[0].height if frames else 0
        values = {"query": self.as_asked(query), "count": len(frames), "seconds": seconds, "side": side}
        values["coordinates"] = coordinates
        parts: list[Part] = [TextPart(filled(self.opening, values))] if self.opening else []
        for i, (frame, time) in enumerate(zip(frames, times, strict=True)):
            parts += [TextPart((self.separator if i else "") + filled(self.stamp, {"time": time})), frame]
        user = Message("user", (*parts, TextPart(filled(self.question, values))))
        return [Message.text("system", filled(self.system, values)), user] if self.system else [user]


@dataclass(frozen=True, kw_only=True)
class CombinedPromptSet(BoxPromptSet):
    """For policies that answer with boxes and ``[SEG]``."""

    kind: ClassVar[str] = "combined"
    called: ClassVar[str] = "prompts for boxes and a mask"
    shipped: ClassVar[tuple[str, ...]] = ("full", "brief")

    def check(self) -> None:
        super().check()
        for name in ("stamp", "opening", "question"):
            if SEG_TOKEN in getattr(self, name):
                raise RecipeError(f"prompt set {self.name}: {name} holds {SEG_TOKEN}, which only the policy may write")


S = TypeVar("S", bound=Asked)
_REGISTERED: dict[tuple[type[Asked], str], Asked] = {}


def register_prompts(prompts: S) -> S:
    """Makes a set available by its name. Raises `RecipeError` if the name is taken, and as `Asked.check`."""
    taken = _REGISTERED.get((type(prompts), prompts.name), prompts) is not prompts
    if taken or prompts.name in prompts.shipped:
        raise RecipeError(f"a prompt set named {prompts.name!r} is already registered")
    prompts.check()
    _REGISTERED[type(prompts), prompts.name] = prompts
    return prompts


def get_prompts(name: str, kind: type[S] = PromptSet) -> S:  # type: ignore[assignment]
    """The set of that name, or in that YAML file. Raises `RecipeError`: lists what there is, or names file and key."""
    if name.endswith(SUFFIXES):
        return read_prompts(Path(name), kind)
    key = (kind, name)
    if key not in _REGISTERED and name in kind.shipped:
        _REGISTERED[key] = replace(read_prompts(FOLDER / kind.kind / f"{name}.yaml", kind), name=name)
    found = _REGISTERED.get(key)
    if not isinstance(found, kind):
        known = ", ".join(prompt_names(kind))
        raise RecipeError(f"no {kind.called} {name!r}; there are {known}, or name a file that ends in .yaml")
    return found


def prompt_names(kind: type[Asked] = PromptSet) -> list[str]:
    """Every set for that kind of answers, but files of a user's own."""
    return [*kind.shipped, *sorted(n for of, n in _REGISTERED if of is kind and n not in kind.shipped)]


def read_prompts(path: Path, kind: type[S]) -> S:
    """A file of one set: the fields of `PromptSet` or `BoxPromptSet`. Raises `RecipeError`, file and key named.

    ``base: NAME`` takes what the file does not say from another set.
    """
    found = _mapping(path)
    base = found.pop("base", None)
    wanted = {f.name: str(f.type) for f in fields(kind) if f.name != "name"}
    for key, value in found.items():
        if key not in wanted:
            raise RecipeError(f"prompt set {path}: {key!r} is none of {', '.join(('base', *wanted))} ({kind.kind})")
        if type(value).__name__ != wanted[key]:
            raise RecipeError(f"prompt set {path}: {key} is {value!r}, expected {wanted[key]}")
    values = found if base is None else get_prompts(str(base), kind).to_dict() | found
    missing = [f.name for f in fields(kind) if f.name != "name" and f.default is MISSING and f.name not in values]
    if missing:
        raise RecipeError(f"prompt set {path}: no {', '.join(missing)}; write what they are to say, or `base: full`")
    prompts = kind(name=str(path), **values)
    prompts.check()
    return prompts


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as e:
        raise RecipeError(f"prompt set {path}: the file does not exist") from e
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise RecipeError(f"prompt set {path}: cannot be read as YAML ({' '.join(str(e).split())})") from e
    if not isinstance(found, dict):
        raise RecipeError(f"prompt set {path}: must be a mapping of texts")
    return found
