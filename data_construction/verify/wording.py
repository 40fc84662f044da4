"""Which frames a sentence speaks of, and what it claims about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_JOIN = r"(?:\s*(?:,\s*(?:and\s+)?|-|–|—|and|to|through|until)\s*(?:frames?\s+)?#?\d+)*"  # noqa: RUF001
_FRAMES = re.compile(rf"\bframes?\s+(?:number\s+|index\s+|indices\s+)?(#?\d+{_JOIN})", re.IGNORECASE)
_SPANS = re.compile(r"\b(?:from|between)\s+(\d+)\s+(?:to|and|until|through)\s+(\d+)\b(?!\s*(?:%|\w))", re.IGNORECASE)
_AT = re.compile(r"\bat\s+(\d+)(?=\s*(?:[.,;:)]|$))", re.IGNORECASE)
_SECONDS = re.compile(r"\b(\d+)(?:\s*(?:to|and|-|–)\s*(\d+))?\s?(?:s|secs?|seconds?)\b", re.IGNORECASE)  # noqa: RUF001
_NUMBER = re.compile(r"\d+")
_SENTENCE = re.compile(r"[^.;!?\n]+")
_WORD = re.compile(r"[a-z]+")

_CLAIM = re.compile(
    r"\b(?:visible|seen|clear|clearly|appears?|present|in view|shows?|shown|can be seen)\b", re.IGNORECASE
)
_HEDGE = re.compile(
    r"\b(?:not|no|nothing|never|none|hidden|occluded|absent|gone|leaves?|left|disappears?|without|unclear|before|after|"
    r"may|might|could|perhaps|possibly|unseen|empty|barely|until|if|whether|look|check|\w+n't)\b",
    re.IGNORECASE,
)
_ABSENT = re.compile(
    r"\b(?:not there|not (?:visible|present|seen|in view)|no target|absent|out of (?:view|frame|sight)|nowhere)\b",
    re.IGNORECASE,
)
_STOP_WORDS = (
    "a an the that which who is are was were be of in on at to by with and or from as it its this these those their "
    "there one ones all both other first last most more than then while when where what video frame object objects "
    "thing things has have does do not no you your can could would should please find segment"
)
_COMMON = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True)
class Mention:
    """A sentence of the thinking with the frames (or seconds) that it names."""

    sentence: str
    numbers: tuple[int, ...]
    action: bool
    """It stands after ``Action:`` and so speaks of what to look at next."""

    @property
    def claims_visible(self) -> bool:
        return bool(_CLAIM.search(self.sentence)) and not _HEDGE.search(self.sentence)

    @property
    def claims_absent(self) -> bool:
        return bool(_ABSENT.search(self.sentence))

    def is_about(self, words: frozenset[str]) -> bool:
        """It shares a content word with ``words``, or says target, it or they."""
        own = set(_WORD.findall(self.sentence.lower()))
        return bool(own & (words | {"target", "targets", "it", "they"}))


def mentions(think: str, seconds: bool = False) -> Iterator[Mention]:
    """Sentences that name frames; with ``seconds``, times as well (Veason-R1 knows its frames by them)."""
    action = think.lower().rfind("action:")
    for found in _SENTENCE.finditer(think):
        sentence = found.group()
        numbers = [int(n) for group in _FRAMES.findall(sentence) for n in _NUMBER.findall(group)]
        numbers += [int(n) for pair in _SPANS.findall(sentence) for n in pair]
        numbers += [int(n) for n in _AT.findall(sentence)]
        if seconds:
            numbers += [int(n) for pair in _SECONDS.findall(sentence) for n in pair if n]
        if numbers:
            yield Mention(sentence.strip(), tuple(dict.fromkeys(numbers)), 0 <= action <= found.end() - 1)


def content_words(text: str) -> frozenset[str]:
    """Words of an expression that say something."""
    return frozenset(w for w in _WORD.findall(text.lower()) if w not in _COMMON and len(w) > 2)
