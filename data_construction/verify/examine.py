"""One trace through the checks and past the judge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_construction.traces import BadLine, Sources, Trace
from data_construction.verify.case import Case, VerifySettings
from data_construction.verify.judge import Judge, ask_judge
from data_construction.verify.registry import Failure, run_checks
from data_construction.verify.report import NO_DATA, UNREADABLE
from data_construction.vlm import GaveUpError
from rollout.errors import DataError
from rollout.types import Sample


@dataclass(frozen=True)
class Verdict:
    """What was found out about one line of the input."""

    id: str
    trace: Trace | None
    """None for a line that is no trace."""
    failures: tuple[Failure, ...] = ()
    line: str = ""
    open: str = ""
    """Why there is no verdict after all: a short stable word, a colon, and what happened."""

    def failed(self, *failures: Failure) -> Verdict:
        return replace(self, failures=failures)

    def row(self) -> dict[str, Any]:
        """The trace with its verdict, as it is written."""
        raw: dict[str, Any] = {"id": self.id, "line": self.line} if self.trace is None else dict(self.trace.raw)
        for key in ("check", "failures"):
            raw.pop(key, None)
        raw |= {"status": "rejected" if self.failures else "ok", "reason": ""}
        if self.failures:
            first = self.failures[0]
            raw |= {"check": first.check, "reason": first.reason}
            raw["failures"] = [{"check": f.check, "reason": f.reason} for f in self.failures]
        return raw


class Examiner:
    """Opens clips and ground truth as traces need them."""

    def __init__(self, sources: Sources, settings: VerifySettings, judge: Judge | None) -> None:
        self.sources, self.settings, self.judge = sources, settings, judge
        self._truth = lru_cache(maxsize=64)(self._look_up)
        self._names: dict[Path, dict[str, frozenset[str]]] = {}
        self._all_names: dict[Path, frozenset[str]] = {}

    async def examine(self, id: str, item: Trace | BadLine) -> Verdict:
        """All checks, then the judge. Raises what the judge raises where no trace can be judged any more, and
        RecipeError where settings and trace disagree.
        """
        if isinstance(item, BadLine):
            return Verdict(id, None, (Failure(UNREADABLE, item.what),), line=item.text)
        verdict = Verdict(id, item)
        if item.raw.get("status", "ok") not in ("ok", "rejected"):
            reason = f"status is {item.raw['status']!r}: {item.raw.get('reason', '')}"
            return verdict.failed(Failure("status", reason))
        try:
            case = self.case(item)
            failures = run_checks(case)
            if not failures and self.judge is not None:
                objection = await ask_judge(self.judge, case)
                failures = [Failure("judge", objection)] if objection else []
        except DataError as e:
            return verdict.failed(Failure(NO_DATA, str(e)))
        except GaveUpError as e:
            return replace(verdict, open=f"{e.reason}: {e}")
        return verdict.failed(*failures)

    def case(self, trace: Trace) -> Case:
        """Raises DataError if the data set does not hold the clip, the expression or its masks."""
        dataset = self.sources.dataset(trace)
        sample, areas = self._truth(_Key(trace))
        names = self._names_of(dataset.root)
        return Case(
            trace=trace,
            sample=sample,
            settings=self.settings,
            areas=areas,
            names=names.get(trace.clip, frozenset()),
            all_names=self._all_names[dataset.root],
            expressions=tuple(e.text for e in dataset.expressions(trace.clip)),
        )

    def _look_up(self, key: _Key) -> tuple[Sample, NDArray[np.int64] | None]:
        from data_construction.cot.runs import union_areas

        sample = self.sources.sample(key.trace)
        return sample, None if sample.masklets is None else union_areas(sample.masklets)

    def _names_of(self, root: Path) -> dict[str, frozenset[str]]:
        if root not in self._names:
            from data_construction.cot.build import read_names

            self._names[root] = {clip: frozenset(n.values()) for clip, n in read_names(root).items()}
            self._all_names[root] = frozenset().union(*self._names[root].values())
        return self._names[root]


class _Key:
    """Traces of one expression share its ground truth."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        ids = tuple(map(str, trace.raw.get("anno_id", ())))
        self._same = (trace.dataset, trace.split, trace.clip, trace.expression_id, trace.text, ids)

    def __hash__(self) -> int:
        return hash(self._same)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._same == other._same
