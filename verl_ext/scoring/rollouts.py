"""From finished dialogues to rewards and masks, through the segmenter pool.

Pure bookkeeping around ``rewards``: a method says which requests its rewards need (:class:`Scoring`), the pool answers
them, and numbers come out. Training and evaluation use the same code.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from rewards.propagated import accuracies
from rewards.scoring import Scoring
from rewards.segmenter.types import DrawnBy, State
from rollout.environment import answers_of, verifies
from rollout.errors import DataError
from rollout.types import RLE, Action, Episode, Grounding, Sample, StopReason, Turn, Verdict
from rollout.verification import FRAMES
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.scoring.propagation import propagated_scores

if TYPE_CHECKING:
    from verl_ext.recipe import Recipe

T = TypeVar("T")

DECODED, PROPAGATED, FIRST = "decoded", "propagated", "first"
"""What the pool is asked for before a rollout has its rewards."""
SCORINGS = {
    "masks": "verl_ext.scoring.seg",
    "boxes": "verl_ext.scoring.boxes",
    "both": "verl_ext.scoring.combined",
}
"""By what replies hold: the module whose ``build(settings, weights, variant)`` makes their :class:`Scoring`."""


@dataclass
class Rollout:
    """One scored episode."""

    sample: Sample
    episode: Episode
    states: list[State | None]
    """Per turn: the state of the ``[SEG]`` that draws its masks, see `rollout.episode.seg_of_turns`."""
    rewards: dict[str, float] = field(default_factory=dict)
    ious: dict[str, float] = field(default_factory=dict)
    masks: list[dict[int, RLE]] = field(default_factory=list)
    """Per turn, by clip frame: those that its rewards judged, if they were asked for."""
    answers: dict[str, float] = field(default_factory=dict)
    """0 or 1, if its masks were propagated: ``n_acc`` without a target, else ``t_acc``; of an answer with two prompts
    also which drew."""
    failed: bool = False
    """Its dialogue raised: the rewards are those of an empty reply, nothing else of it counts."""
    asked: int = 0
    """Answers of the pool that its rewards took."""
    ahead: int = 0
    """Of these, how many were there before."""


def scoring_of(
    environment: str, settings: Mapping[str, Any], weights: Mapping[str, float], variant: str = "intended"
) -> Scoring:
    """The scoring of dialogues in ``environment``; without weights it only makes masks."""
    weighed, given = dict(weights), {key: value for key, value in settings.items() if key != FRAMES}
    scoring: Any = import_module(SCORINGS[answers_of(environment)]).build(given, weighed, variant)
    if verifies(environment):
        from verl_ext.scoring.verified import VerifiedScoring

        scoring = VerifiedScoring(scoring, weighed, variant)  # type: ignore[arg-type]
    return scoring  # type: ignore[no-any-return]


def recipe_scoring(recipe: Recipe) -> Scoring:
    """The scoring of a recipe's method, with its rewards."""
    name, settings = environment_of(recipe)
    scoring = scoring_of(name, settings, recipe.rewards.weights, recipe.rewards.variant)
    dialogue = getattr(scoring, "inner", scoring)
    of_masks = getattr(dialogue, "seg", dialogue)  # of an answer with two prompts, the part that is masks
    if hasattr(of_masks, "existence"):
        of_masks.existence = recipe.rewards.existence
    if hasattr(scoring, "propagation"):
        scoring.propagation = recipe.rewards.propagation
    return scoring


def requests_of(
    scoring: Scoring, sample: Sample, episode: Episode, states: Sequence[Any], with_masks: bool = False
) -> dict[str, Any]:
    """What the pool is asked before the rewards of an episode can be computed, by `DECODED` and its like."""
    asked = {
        DECODED: scoring.reward_request(sample, episode, states, with_masks=with_masks),
        PROPAGATED: scoring.propagation_request(sample, episode, states),
        FIRST: scoring.first_request(sample, episode, states),
    }
    return {name: request for name, request in asked.items() if request is not None}


def score_rollouts(
    scoring: Scoring,
    pool: Any,
    samples: Sequence[Sample],
    episodes: Sequence[Episode],
    states: Sequence[list[Any]],
    with_masks: Container[int] = (),
    refused: Callable[[str, DataError], None] | None = None,
    known: Sequence[Mapping[str, Any]] | None = None,
) -> list[Rollout]:
    """Ask the pool once for all, then compute every rollout's rewards.

    Args:
        with_masks: numbers of the rollouts that shall hold the masks which were judged.
        refused: told of a sample (its id) of which the pool cannot read a frame that its rewards want, and no dialogue
            showed. All its rollouts fail then, so that their group learns nothing. None: that raises.
        known: per rollout, answers to `requests_of` that are there already; asked again where masks shall be held.

    Raises:
        DataError: a dialogue that its clip's frames refused has no score, least of all that of an empty reply; a sample
            without ground truth has none either.
    """
    check_begun(samples, episodes)
    wanted: dict[tuple[str, int], Any] = {}
    there: dict[tuple[str, int], Any] = {}
    for i, parts in enumerate(zip(samples, episodes, states, strict=True)):
        for name, request in requests_of(scoring, *parts, with_masks=i in with_masks).items():
            wanted[name, i] = request
            if known is not None and name in known[i] and not (name == DECODED and i in with_masks):
                there[name, i] = known[i][name]
    missing = sorted((key for key in wanted if key not in there), key=lambda key: key[0] != DECODED)  # `ScoredInPass`
    asked = {key: wanted[key] for key in missing}
    lost: set[str] = set()
    try:
        answers = there | _answers(pool, asked)
    except DataError:
        if refused is None:
            raise
        answers = dict(there)
        for i, sample in enumerate(samples):
            its_own = pool.of(i) if hasattr(pool, "of") else pool  # `ScoredInPass` tells dialogues by their order
            try:
                answers |= _answers(its_own, {key: request for key, request in asked.items() if key[1] == i})
            except DataError as e:
                refused(sample.id, e)
                lost.add(sample.id)
    out = []
    for i, (sample, episode) in enumerate(zip(samples, episodes, strict=True)):
        if sample.id in lost:
            out.append(failed_rollout(scoring, sample))
            continue
        answer, after = answers.get((DECODED, i)), answers.get((PROPAGATED, i))
        rewards = scoring.rewards(sample, episode, answer, after, answers.get((FIRST, i)))
        rollout = Rollout(sample, episode, states[i], rewards)
        rollout.asked, rollout.ahead = (sum(n == i for _, n in keys) for keys in (wanted, there))
        if after is not None:
            scores = propagated_scores(sample, after)
            rollout.ious["propagated"] = float(np.mean(scores.j))
            rollout.answers = accuracies(scores.predicted, scores.has_target)
            if scoring.combines:
                rollout.answers |= {f"drawn_by_{kind}": float(after.drawn_by is kind) for kind in DrawnBy}
        if answer is not None:
            rollout.ious |= scoring.ious(answer)
            rollout.masks = scoring.masks(episode, answer) if i in with_masks else []
        out.append(rollout)
    return out


def _answers(pool: Any, asked: Mapping[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
    return dict(zip(asked, pool.score(list(asked.values())), strict=True)) if asked else {}


def failed_rollout(scoring: Scoring, sample: Sample) -> Rollout:
    """What stands for a dialogue that raised: the rewards of a policy that said nothing."""
    silent = Episode([], StopReason.CONTEXT_FULL, (), sample.clip.num_frames)
    return Rollout(sample, silent, [], scoring.rewards(sample, silent, None), failed=True)


def predict_masks(scoring: Scoring, pool: Any, rollouts: Sequence[Rollout]) -> list[Sequence[RLE | None]]:
    """Per rollout, the predicted mask of each of its clip's frames. Raises as :func:`score_rollouts`."""
    check_begun([r.sample for r in rollouts], [r.episode for r in rollouts])
    answers = pool.score([scoring.mask_request(r.sample, r.episode, r.states) for r in rollouts])
    return [answer.rles for answer in answers]


def check_begun(samples: Sequence[Sample], episodes: Sequence[Episode]) -> None:
    """Raises DataError, naming the expression, for a dialogue that ended as ``refused_clip``."""
    for sample, episode in zip(samples, episodes, strict=True):
        if episode.stop is StopReason.REFUSED_CLIP:
            raise DataError(
                f"{sample.id}: its frames could not be shown (the log names the file), so there is no reply to score; "
                "restore them, or leave the expression out"
            )


def episode_from_dict(d: dict[str, Any]) -> Episode:
    """Inverse of ``dataclasses.asdict`` as it arrives from another process."""
    turns = []
    for t in d["turns"]:
        grounding = Grounding(**t["grounding"]) if t["grounding"] else None
        action = Action(t["action"]) if t["action"] else None
        turns.append(Turn(**{**t, "grounding": grounding, "action": action, "shown": tuple(t["shown"])}))
    verdict = Verdict(d["verdict"]) if d.get("verdict") else None
    return Episode(turns, StopReason(d["stop"]), tuple(d["spatial_frames"]), d["num_frames"], verdict)


class Remembered(Generic[T]):
    """Facts about ground truth by sample: every rollout of a group asks for the same, and decoding masks is slow."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._facts: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, sample: Sample, make: Callable[[], T], *more: Hashable) -> T:
        clip, expression = sample.clip, sample.expression
        key = (clip.name, clip.frames[:1], clip.num_frames, expression.id, expression.anno_ids, *more)
        if key not in self._facts:
            self._facts[key] = make()
            while len(self._facts) > self._capacity:
                self._facts.popitem(last=False)
        return self._facts[key]


def metrics_of(rollouts: Sequence[Rollout], prefix: str = "") -> dict[str, float]:
    """Means for the log: every reward; of those that did not fail every stop reason as a share, turns, mean IoUs;
    ``pool/hidden_share`` of the answers that the pool had given before the step asked for any."""
    n = max(1, len(rollouts))
    ended = [r for r in rollouts if not r.failed]
    out: dict[str, float] = {}
    for name in rollouts[0].rewards if rollouts else ():
        values = np.array([r.rewards[name] for r in rollouts])
        key = "mean" if name == "total" else name
        out[f"{prefix}reward/{key}"] = float(values.mean())
        if name == "total":
            out[f"{prefix}reward/std_error"] = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    stops = Counter(r.episode.stop for r in ended)
    for reason in StopReason:
        out[f"{prefix}stop/{reason.value}"] = stops[reason] / max(1, len(ended))
    seen = Counter(r.episode.verdict for r in ended if r.episode.verdict is not None)
    if seen:
        out |= {f"{prefix}verdict/{v.value}": seen[v] / seen.total() for v in Verdict}
    out[f"{prefix}turns/mean"] = float(np.mean([len(r.episode.turns) for r in ended])) if ended else 0.0
    asked = sum(r.asked for r in rollouts)
    if asked and not prefix:
        out["pool/hidden_share"] = sum(r.ahead for r in rollouts) / asked
    for name in dict.fromkeys(name for r in rollouts for name in r.ious):
        out[f"{prefix}iou/{name}"] = float(np.mean([r.ious[name] for r in rollouts if name in r.ious]))
    for name in dict.fromkeys(name for r in rollouts for name in r.answers):
        out[f"{prefix}answers/{name}"] = float(np.mean([r.answers[name] for r in rollouts if name in r.answers]))
    return out
