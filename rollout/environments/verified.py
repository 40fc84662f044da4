"""A verification turn behind any dialogue: the policy is shown its own masks and confirms, corrects or takes back.

Composed, not copied: the dialogue is another environment's. When that is answered, the masks that SAM 2 draws of the
answer are asked for (`MasksWanted`), drawn on its keyframe and some other frames, and one more turn begins. The rules:

- Only an answer is verified. A dialogue that ends otherwise has nothing to verify and ends as it did.
- An answer that draws no mask in the frames shown is verified too: the frames are shown as they are, and said to be
  without a mask.
- Where nothing can draw (a replayed trace), and where the turn does not fit, the first answer stands.
- A verdict that cannot be read changes nothing; the first answer stands (``bad_action``).

What is drawn comes from the policy's own answer: requests for it hold no ground truth, frames are chosen by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from rollout.environment import Environment, register_environment
from rollout.environments.combined_answers import CombinedAnswers
from rollout.environments.keyframe_exploration import KeyframeExploration
from rollout.environments.single_turn_boxes import SingleTurnBoxes
from rollout.errors import RecipeError
from rollout.messages import FramePart, Message, Part, TextPart
from rollout.types import RLE, Action, Episode, Sample, StopReason, Turn, Verdict, decode_rle
from rollout.verification import FRAMES, MasksWanted, others, read_verdict

SHOWN = "\nYour answer draws these masks. The frames above, in order: {frames}; {keyframe} is your keyframe.{empty}\n"
EMPTY = " No mask is drawn in {frames}."
ASKED = (
    "Query: {query}\nLook whether they are right. Think between <think> and </think> first, then write "
    "<answer>confirm</answer> if they are, <answer>no target</answer> if nothing in the video fits the query, or your "
    "answer once more, corrected."
)


class Looks(Environment, Protocol):
    """A dialogue whose answer can be verified."""

    sample: Sample
    query: str

    def look_at(self, frames: Sequence[int], keyframe: int) -> list[FramePart]:
        """The frames at the sizes at which the policy sees such frames."""
        ...

    def answered_at(self) -> int:
        """The frame at which the answer's masks begin."""
        ...

    def again(self) -> Looks:
        """A new dialogue of the same kind on the same frames."""
        ...


class Verified:
    """See the module; registered for each kind of dialogue below."""

    answers: ClassVar[str]
    dialogue: ClassVar[type[Any]]
    verifies: ClassVar[bool] = True

    def __init__(self, inner: Looks, frames: int) -> None:
        if frames < 0:
            raise RecipeError(f"{FRAMES} = {frames}: must not be negative")
        self.inner = inner
        self.frames = frames
        self.sample, self.query = inner.sample, inner.query
        self._verdict: Verdict | None = None
        self._turn: Turn | None = None
        self._asked = False
        self._shown: tuple[int, ...] = ()

    @classmethod
    def build(cls, sample: Sample, settings: Mapping[str, Any], factor: int) -> Verified:
        rest = dict(settings)
        frames = rest.pop(FRAMES, 3)
        return cls(cls.dialogue.build(sample, rest, factor), frames)

    def begin(self) -> list[Message] | StopReason:
        return self.inner.begin()

    def step(self, reply: str) -> list[Message] | StopReason | MasksWanted:
        """The inner dialogue's turn, or the verdict on its answer."""
        if self._asked:
            return self._judge(reply)
        outcome = self.inner.step(reply)
        if outcome is not StopReason.ANSWERED:
            return outcome
        keyframe = self.inner.answered_at()
        return MasksWanted(tuple(others(self.sample.clip.num_frames, self.frames, keyframe)))

    def see(self, masks: Mapping[int, RLE] | None) -> list[Message] | StopReason:
        """The message that shows the masks of the answer, by frame; ends the dialogue where there is nobody to draw."""
        if masks is None:
            return StopReason.ANSWERED
        self._asked = True
        keyframe = self.inner.answered_at()
        frames, empty = sorted(masks), [t for t in sorted(masks) if not decode_rle(masks[t]).any()]
        bare = EMPTY.format(frames=", ".join(map(str, empty))) if empty else ""
        said = SHOWN.format(frames=", ".join(map(str, frames)), keyframe=keyframe, empty=bare)
        parts: list[Part] = [
            FramePart(p.frame, p.height, p.width, None if p.frame in empty else _counts(masks[p.frame]))
            for p in self.inner.look_at(frames, keyframe)
        ]
        message = Message("user", (*parts, TextPart(said), TextPart(ASKED.format(query=self.query))))
        self._shown = message.frames
        return [message]

    def episode(self, stop: StopReason) -> Episode:
        found = self.inner.episode(stop)
        if self._turn is None:
            return found
        found.verdict = self._verdict
        found.turns = [*found.turns, self._turn]
        return found

    def _judge(self, reply: str) -> StopReason:
        keyframe = self.inner.answered_at()
        verdict = read_verdict(reply)
        if verdict is None:
            verdict, corrected = self._corrected(reply)
            if self.answers == "masks":
                corrected.keyframe = keyframe  # a [SEG] is decoded on the keyframe that its turn was shown
        else:
            corrected = Turn(reply, Action.ANSWER, None, keyframe)
        corrected.shown = self._shown
        self._verdict, self._turn = verdict, corrected
        return StopReason.BAD_ACTION if verdict is Verdict.UNREAD else StopReason.ANSWERED

    def _corrected(self, reply: str) -> tuple[Verdict, Turn]:
        """Read by the very dialogue: another one of its kind, on the same frames, whose first reply this is."""
        again = self.inner.again()
        again.begin()
        answered = again.step(reply) is StopReason.ANSWERED
        (turn,) = again.episode(StopReason.ANSWERED).turns
        return (Verdict.CORRECTED if answered else Verdict.UNREAD), turn


def _counts(rle: RLE) -> str:
    counts = rle["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)


@register_environment("verified_boxes")
class VerifiedBoxes(Verified):
    """Veason-R1's single turn, verified."""

    answers = "boxes"
    dialogue = SingleTurnBoxes


@register_environment("verified_masks")
class VerifiedMasks(Verified):
    """VideoSEG-O3's dialogue, verified."""

    answers = "masks"
    dialogue = KeyframeExploration


@register_environment("verified_combined")
class VerifiedCombined(Verified):
    """Boxes and ``[SEG]`` in one answer, verified."""

    answers = "both"
    dialogue = CombinedAnswers
