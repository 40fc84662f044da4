"""What the model that writes traces is told. Facts come from ground truth; it only puts them into words it can see."""

from __future__ import annotations

from dataclasses import dataclass

SHARED_RULES = (
    "Write as if you had found everything out by looking. Some frames carry thin red rectangles around the target: "
    "they are there for you alone. Never mention rectangles, boxes, marks, annotations, notes, hints or ground truth. "
    "Mention only what can be seen in the frames you are shown and call frames by the numbers given with them. "
    "Write plain sentences in English: no lists, no line breaks, no quotation marks, no brackets of any kind."
)

SEED_SYSTEM = (
    "You write the reasoning of an assistant that finds the object or objects a query describes in a video. You see "
    "frames with their times in seconds. " + SHARED_RULES
)

SEED_TASK = (
    "Query: {query}\n"
    "The right result, which the reasoning must lead to: the frame at {keyframe} s is the best one to locate the "
    "target in, and the target there is what the red rectangles enclose ({count}).\n"
    "Write the reasoning in three steps and return them as a JSON object with three texts of at most {max_chars} "
    "characters each: summary, keyframe, target.\n{style}"
)


@dataclass(frozen=True)
class SeedTemplate:
    """How the three steps are to be written, and how they are put together."""

    name: str
    style: str
    joined: str
    """With the fields {summary}, {keyframe} and {target}."""


SEED_TEMPLATES = (
    SeedTemplate(
        "narrative",
        "summary: tell what happens in the video from beginning to end, with the objects that matter for the query. "
        "keyframe: say why the frame at {keyframe} s shows the target better than the others do: size, view, what "
        "covers it elsewhere. target: say where in that frame it is, how it looks, and which part of the query tells "
        "it from its neighbours.",
        "{summary} {keyframe} {target}",
    ),
    SeedTemplate(
        "comparison",
        "summary: name the objects that could be meant and what each of them does over time. keyframe: compare the "
        "frames and conclude that the one at {keyframe} s is the clearest. target: go through the candidates in that "
        "frame, rule out the wrong ones, and end with where the right one is.",
        "Over the whole video: {summary} Choosing a frame: {keyframe} In that frame: {target}",
    ),
    SeedTemplate(
        "question",
        "summary: begin with what the query asks for, then say what in the video bears on it and when. keyframe: state "
        "at which times the target can be seen, and settle on {keyframe} s with the reason. target: describe its place "
        "relative to other things in that frame, its looks, and how this answers the query.",
        "First, the video as a whole. {summary} Next, the keyframe. {keyframe} Last, the target. {target}",
    ),
)
"""One of them is drawn for each item."""

VTS_SYSTEM = (
    "You write the reasoning of an assistant that segments the object or objects a query describes in a video, in "
    "several turns. At first it sees low-resolution frames of the whole video and a few sharper ones; in each turn it "
    "either selects an interval and a keyframe, of which it is then shown more, or answers. For one turn at a time you "
    "are told what it decides; you write why. " + SHARED_RULES
)

VTS_TASK = (
    "\n\nNow write the reasoning of turn {turn}. The decision is fixed: {decision}\n"
    "Facts you may rely on: {facts}\n{situation}"
    "Return a JSON object with four texts of at most {max_chars} characters each:\n"
    "temporal: what moves, appears, leaves or changes, and in which of the frames seen so far; this must support the "
    "interval {start} to {end}.\n"
    "spatial: where the target or the candidates are, how they look, what sets them apart from what is around them; "
    "this must support the keyframe {keyframe}.\n"
    "language: what the query demands, word by word, and what meets it.\n"
    "action: one short sentence that says {action}."
)
VTS_DECISIONS = {
    False: "look again at frames {start} to {end}, with frame {keyframe} as the keyframe.",
    True: "the target is confirmed; it matters in frames {start} to {end}, and frame {keyframe} shows it best.",
}
VTS_ACTIONS = {False: "to look again, and where", True: "that the target is confirmed"}
NOTHING_FITS = "Nothing in the video fits the query; the reasoning must arrive at that, and the mask will be empty. "
TENTATIVE = (
    "This choice is a guess that the next frames will prove poor. Word it as a careful guess, and do not claim to see "
    "the target clearly. "
)
CORRECTED = (
    "The choice of the turn before was poor: its keyframe {keyframe} shows the target badly or not at all. Say so in "
    "temporal, and change course. "
)
RETRY = "An earlier version was turned down for this reason: {reason}. Avoid it without mentioning it.\n"
