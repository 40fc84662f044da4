"""What a job has paid, on disk beside its results: these may be rejected, replaced or deleted, the money is gone."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from data_construction.generate.journal import read_lines
from data_construction.traces.jsonl import JsonLines
from data_construction.vlm import Ledger, Usage


class SpentFile:
    """One line an answer, appended as it comes; nothing is ever taken out.

    ``keep`` has a ledger begin with what earlier runs spent (at its own prices where they knew none) and writes what
    it pays. Raises DataError where another job writes the file, and for a line that is none of it.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)

    def keep(self, ledger: Ledger) -> bool:
        """True if anything was paid before."""
        before = 0
        for _, line in read_lines(self._lines.path):
            before += 1
            cost = float(line.get("cost") or 0.0)
            tokens = int(line.get("prompt_tokens", 0)), int(line.get("completion_tokens", 0))
            ledger.spent_before += cost or ledger.prices.usage(*tokens).cost
        ledger.paid = self._paid
        return before > 0

    def _paid(self, usage: Usage) -> None:
        self._lines.append(usage.to_dict())

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> SpentFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
