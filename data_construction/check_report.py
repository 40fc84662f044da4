"""What a check of a data set found, as values and as one screen of text."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_construction.problems import Problem

SHOWN_PROBLEMS = 12


@dataclass
class SplitCounts:
    """What a split holds. ``self_jf`` is the lowest J&F of ground truth against itself; None without masks."""

    clips: int = 0
    frames: int = 0
    expressions: int = 0
    types: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    """Expressions by number of target objects."""
    scored: int = 0
    self_jf: float | None = None
    set_aside: int = 0
    """Expressions that cannot be used: a frame, a mask or a whole clip is wrong."""
    ceiling: dict[str, float] = field(default_factory=dict)
    """What the segmenter reaches, mean J&F in percent, by prompts: ``boxes`` of the ground truth, ``seg`` the best
    state of a policy's head. Empty unless asked for."""
    ceiling_by_clip: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same clip by clip, the lowest first."""
    traces: int = 0
    traces_of_other_masks: int = 0
    """Of these, those that draw another object than they answer for."""
    rl_annotations: int = 0


@dataclass
class CheckReport:
    """Counts by split and everything found wrong."""

    name: str
    root: str
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, problems: Iterable[Problem]) -> None:
        """More problems, each of which is kept once."""
        self.problems = list(dict.fromkeys([*self.problems, *problems]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "ok": self.ok}

    def table(self, width: int = 110) -> str:
        """One screen of text: counts, then the first problems."""
        return render_report(self, width)


def render_report(report: CheckReport, width: int) -> str:
    """Plain text: a table of counts by split, then the problems by code and the first of them in full."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    table = Table(title=f"{report.name} at {report.root}")
    table.add_column("")
    for split in report.splits:
        table.add_column(split, justify="right")
    for label, values in _rows(list(report.splits.values())):
        table.add_row(label, *values)
    console.print(table)
    if report.ok:
        console.print("no problems found")
        return out.getvalue()
    codes = Counter(p.code for p in report.problems)
    console.print(f"{len(report.problems)} problems: " + ", ".join(f"{c} {n}" for c, n in codes.most_common()))
    for problem in report.problems[:SHOWN_PROBLEMS]:
        console.print(f"- [{problem.code}] {problem}", markup=False, soft_wrap=True)
    if len(report.problems) > SHOWN_PROBLEMS:
        console.print(f"… and {len(report.problems) - SHOWN_PROBLEMS} more")
    return out.getvalue()


def _rows(splits: list[SplitCounts]) -> list[tuple[str, list[str]]]:
    rows = [(label, [str(getattr(s, label)) for s in splits]) for label in ("clips", "frames", "expressions")]
    other = ("traces that draw another object", "traces_of_other_masks")
    for label, attribute in (("rl_annotations", "rl_annotations"), ("traces", "traces"), other):
        if any(getattr(s, attribute) for s in splits):
            rows.append((label, [str(getattr(s, attribute)) for s in splits]))
    for title, attribute in (("type", "types"), ("kind", "kinds"), ("targets", "targets")):
        counts: list[dict[str, int]] = [getattr(s, attribute) for s in splits]
        if title == "type" and all(set(c) <= {"untyped"} for c in counts):
            continue  # Only ReVOS has types.
        for key in dict.fromkeys(k for c in counts for k in c):
            rows.append((f"{title} {escape(key)}", [str(c.get(key, 0)) for c in counts]))
    lowest = ["-" if s.self_jf is None else f"{s.self_jf:.4f}" for s in splits]
    for prompts, words in (("boxes", "true boxes"), ("seg", "[SEG]")):
        if any(prompts in s.ceiling for s in splits):
            means = [f"{s.ceiling[prompts]:.1f}" if prompts in s.ceiling else "-" for s in splits]
            rows.append((f"ceiling: J&F from {escape(words)}", means))
    rows.append(("expressions set aside", [str(s.set_aside) for s in splits]))
    return [*rows, ("lowest J&F of ground truth against itself", lowest)]
