"""Plan a multi-turn trace from ground truth: look wide, then where the target is large and open (SPEC 2.1, 2.6).

Each turn's text is read off the frames shown up to that turn and off nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_construction.cot import words
from data_construction.cot.closeup import closeup_turns
from data_construction.cot.habits import Habits
from data_construction.cot.tracks import Evidence, InitialFrames, SceneObject
from data_construction.readers.records import VTSCoTRecord, frame_names
from rollout.errors import DataError, RecipeError
from rollout.frames import evenly_spaced
from rollout.messages import FramePart, Part
from rollout.prompts import PromptSet, get_prompts
from rollout.protocol import format_turn
from rollout.types import Action, Grounding, Sample

LATER = ("middle_habit", "wrong_interval", "wrong_twin")
"""Settings that a data set's manifest leaves out where they are 0."""
DIM_SHARE = 0.25
"""A frame with less than this share of the best shown area is a bad first choice."""


@dataclass(frozen=True)
class TraceSettings:
    """How traces are made. Set the frame numbers as the training environment shows them."""

    temporal_frames: int = 10
    spatial_frames: int = 5
    frames_per_turn: int = 5
    turns: tuple[float, ...] = (0.2, 0.5, 0.3)
    """Weights of one, two, three … turns."""
    recover: float = 0.1
    """Share of the longer traces that choose badly first, where the clip has a bad choice."""
    scene: bool = False
    """Step 1 lists every object seen, not only the target."""
    describe_target: bool = True
    """Step 2 also says how large the target is and where it moves."""
    named_kinds: tuple[str, ...] = ()
    """Kinds of expression whose targets Step 1 calls by name; the others' are "target"; none = all by name. A writer
    that cannot see which object an expression means would learn to guess names."""
    noise: float = 0.0
    """Share of traces that reason about a wrong object, as an imperfect writer would."""
    noise_kinds: tuple[str, ...] = ()
    """Kinds of expression that the noise is for; none = all."""
    middle_habit: float = 0.0
    """Share of the longer traces whose first choice is a too wide interval with the keyframe at its middle."""
    wrong_interval: float = 0.0
    """Share of the longer traces whose first interval is anywhere."""
    wrong_twin: float = 0.0
    """Of objects that the text calls alike: share of the traces on any but the first whose masks are the first's. The
    text stays right."""
    prompts: str = "brief"

    def __post_init__(self) -> None:
        if not self.turns or min(self.turns) < 0 or sum(self.turns) <= 0:
            raise RecipeError(f"traces: turns = {self.turns}: wants weights >= 0, one of them > 0")
        if not (0 <= self.recover <= 1 and 0 <= self.noise <= 1):
            raise RecipeError(f"traces: recover = {self.recover}, noise = {self.noise}: want shares in 0..1")
        if min(self.middle_habit, self.wrong_interval) < 0 or self.middle_habit + self.wrong_interval > 1:
            raise RecipeError(
                f"traces: middle_habit = {self.middle_habit}, wrong_interval = {self.wrong_interval}: want shares "
                ">= 0 that sum to 1 at most"
            )
        if not 0 <= self.wrong_twin <= 1:
            raise RecipeError(f"traces: wrong_twin = {self.wrong_twin}: wants a share in 0..1")
        if min(self.temporal_frames, self.frames_per_turn) < 1 or self.spatial_frames < 0:
            raise RecipeError("traces: temporal_frames and frames_per_turn want at least 1, spatial_frames 0")

    @property
    def habits(self) -> Habits:
        return Habits(self.middle_habit, self.wrong_interval)

    def to_dict(self) -> dict[str, Any]:
        """Without habits that it does not have: data sets made before there were any stay what they are."""
        return {k: v for k, v in asdict(self).items() if v or k not in LATER}


@dataclass(frozen=True)
class Look:
    """What a turn says and chooses."""

    step1: str
    step2: str
    grounding: Grounding


def plan_traces(
    sample: Sample,
    objects: Sequence[SceneObject],
    initial_frames: InitialFrames,
    frames_per_turn: int,
    rng: np.random.Generator,
    turns: int | Sequence[float] = (0.2, 0.5, 0.3),
    recover: float = 0.1,
    scene: bool = False,
    noise: float = 0.0,
    prompts: str = "brief",
    describe_target: bool = True,
    habits: Habits | None = None,
) -> VTSCoTRecord:
    """One trace for a sample. ``objects`` are the clip's, the sample's targets among them.

    turns: a number, or weights of 1, 2, 3 … turns (an expression that only a close look answers has two).
    recover, scene, noise, describe_target, habits: see ``TraceSettings``.
    Raises DataError if a target is not among ``objects``.
    """
    habits = habits or Habits()
    if sample.expression.legible:
        return _closeup(
            sample, objects, _Dialogue(sample, initial_frames, prompts), frames_per_turn, habits, noise, rng
        )
    focus, noisy = _focus(sample, objects, noise, rng)
    count = turns if isinstance(turns, int) else 1 + int(rng.choice(len(turns), p=np.array(turns) / np.sum(turns)))
    try_bad = count > 1 and rng.random() < recover
    total, pixels = sample.clip.num_frames, sample.clip.height * sample.clip.width
    seen = {*initial_frames.temporal, *initial_frames.spatial}
    dialogue = _Dialogue(sample, initial_frames, prompts)
    after_bad: Grounding | None = None
    for n in range(count):
        evidence = Evidence(focus, tuple(sorted(seen)), pixels)
        bad = _bad_look(evidence, total, rng) if try_bad and n == 0 else None
        narrow = n > (1 if after_bad and count > 2 else 0)
        look = bad or _look(evidence, total, narrow, last=n == count - 1, describe_target=describe_target)
        if n == 0 and count > 1 and not bad:
            look = _habitual(look, habits.first_choice(look.grounding.keyframe, total, rng), focus)
        prefix = words.describe_scene(objects, evidence) if scene else ""
        if after_bad is not None and n == 1:
            state = "hidden" if evidence.area(after_bad.keyframe) else "not there"
            prefix += f"{words.name_of(focus)} {words.be(focus)} {state} at {after_bad.keyframe}. "
        final = n == count - 1
        think = (
            f"Step 1: {prefix}{look.step1} Step 2: {look.step2} "
            f"Step 3: query about {words.query_word(sample.expression)}. "
            f"Action: {'confirmed' if final else 'look again'}"
        )
        dialogue.reply(format_turn(think, Action.ANSWER if final else Action.SELECT, look.grounding))
        dialogue.chosen.append(look.grounding)
        if not final:
            shown = evenly_spaced(look.grounding.start, look.grounding.end, frames_per_turn)
            dialogue.show(shown, look.grounding.keyframe)
            seen |= {*shown, look.grounding.keyframe}
        after_bad = look.grounding if bad else after_bad
    return dialogue.record(noisy)


def _focus(
    sample: Sample, objects: Sequence[SceneObject], noise: float, rng: np.random.Generator
) -> tuple[tuple[SceneObject, ...], bool]:
    """The objects that the trace is about, and whether they are the wrong ones."""
    ids = sample.expression.anno_ids
    targets = tuple(o for o in objects if o.anno_id in ids)
    if len(targets) != len(set(ids)):
        missing = sorted(set(ids) - {o.anno_id for o in targets})
        raise DataError(f"clip {sample.clip.name}, {sample.id}: no object for annotation {missing[0]} to plan from")
    others = [o for o in objects if o.anno_id not in ids and o.areas.any()]
    if rng.random() < noise and others:
        return (others[int(rng.integers(len(others)))],), True
    return targets, False


def _look(evidence: Evidence, total: int, narrow: bool, last: bool, describe_target: bool) -> Look:
    """The honest choice: all that is seen of the target, or only where it is large."""
    name, verb = words.name_of(evidence.objects), words.be(evidence.objects)
    middle = min(evidence.seen, key=lambda t: abs(t - total // 2))
    if not evidence.visible:
        if evidence.objects and not last:
            start, end = evidence.widest_gap()
            look = _interval(start, end, (start + end) // 2, total)
            return Look("nothing is seen yet.", f"look between {start} and {end}.", look)
        return Look("nothing matches.", f"no target at {middle}.", _interval(0, total - 1, middle, total))
    best = evidence.best()
    it = "it" if len(evidence.objects) == 1 else "they"
    how = f"{words.size_word(evidence)}, {words.motion_words(evidence)}, " if describe_target else ""
    step2 = f"{it} {verb} {how}clear at {best}."
    if narrow:
        # A second look goes closer, for frames not shown yet; the answer names all that is clear.
        start, end = evidence.clear_run(best) if last else evidence.close_run(best)
        return Look(f"{name} {verb} clear from {start} to {end}.", step2, _interval(start, end, best, total))
    start, end = evidence.visible[0], evidence.visible[-1]
    return Look(f"{name} {verb} seen from {start} to {end}.", step2, _interval(start, end, best, total))


def _bad_look(evidence: Evidence, total: int, rng: np.random.Generator) -> Look | None:
    """A guess at frames where the target is absent or barely visible, worded as a guess; None if there are none."""
    if not evidence.visible:
        return None
    limit = DIM_SHARE * evidence.area(evidence.best())
    dim = [t for t in evidence.seen if evidence.area(t) < limit]
    if not dim:
        return None
    keyframe = int(rng.choice(dim))
    start, end = evidence.run(keyframe, lambda t: evidence.area(t) < limit)
    name = words.name_of(evidence.objects)
    it = "it is" if len(evidence.objects) == 1 else "they are"
    step1 = f"{name} may be from {start} to {end}."
    return Look(step1, f"{it} not clear at {keyframe}.", _interval(start, end, keyframe, total))


def _habitual(look: Look, choice: Grounding | None, focus: Sequence[SceneObject]) -> Look:
    """A habit's choice in words that claim nothing of the frames; the honest look where there is none."""
    if choice is None:
        return look
    step1 = f"{words.name_of(focus)} may be from {choice.start} to {choice.end}."
    return Look(step1, f"look at {choice.keyframe}.", choice)


def _closeup(
    sample: Sample,
    objects: Sequence[SceneObject],
    dialogue: _Dialogue,
    frames_per_turn: int,
    habits: Habits,
    noise: float,
    rng: np.random.Generator,
) -> VTSCoTRecord:
    turns, noisy = closeup_turns(sample, objects, dialogue.initial.temporal, habits, noise, rng)
    for n, (text, choice) in enumerate(turns):
        dialogue.reply(text)
        dialogue.chosen.append(choice)
        if n < len(turns) - 1:
            dialogue.show(evenly_spaced(choice.start, choice.end, frames_per_turn), choice.keyframe)
    return dialogue.record(noisy)


def _interval(start: int, end: int, keyframe: int, total: int) -> Grounding:
    """At least two frames where the clip has two: rewards read the interval as half open (SPEC 2.5)."""
    if start == end:
        start, end = (start, end + 1) if end + 1 < total else (max(start - 1, 0), end)
    return Grounding(start, end, keyframe)


class _Dialogue:
    """The conversation as it grows; images stand as ``<image>`` and are re-created at training time."""

    def __init__(self, sample: Sample, initial: InitialFrames, prompts: str) -> None:
        self.sample, self.initial, self.prompts = sample, initial, get_prompts(prompts, PromptSet)
        self.chosen: list[Grounding] = []
        asked = (sample.expression.text, sample.clip.num_frames)
        first = self.prompts.first_user_parts(_parts(initial.temporal), _parts(initial.spatial), *asked)
        self.messages = [("system", self.prompts.system), ("human", _flat(first))]

    def reply(self, text: str) -> None:
        self.messages.append(("gpt", text))

    def show(self, interval: Sequence[int], keyframe: int) -> None:
        asked = (self.sample.expression.text, self.sample.clip.num_frames)
        parts = self.prompts.follow_up_parts(_parts(interval), _parts([keyframe])[0], *asked)
        self.messages.append(("human", _flat(parts)))

    def record(self, noisy: bool) -> VTSCoTRecord:
        clip, expression = self.sample.clip, self.sample.expression
        return VTSCoTRecord(
            video_name=clip.name,
            frames=frame_names(clip),
            exp=expression.text,
            anno_id=expression.anno_ids,
            sample_frame_indice=self.initial.spatial,
            cot_trace=tuple(self.chosen),
            conversations=tuple(self.messages),
            kind=expression.kind,
            noisy=noisy,
        )


def _parts(frames: Sequence[int]) -> list[FramePart]:
    return [FramePart(f, 0, 0) for f in frames]


def _flat(parts: Sequence[Part]) -> str:
    return "".join("<image>" if isinstance(p, FramePart) else p.text for p in parts)
