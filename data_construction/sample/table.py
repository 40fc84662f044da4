"""The sample's table: every stratum before and after."""

from __future__ import annotations

import io
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_construction.sample.draw import Draw
from data_construction.sample.population import Population

MOST_ROWS = 40


def sample_table(population: Population, drawn: Draw, per_clip: int | None, width: int = 100) -> str:
    """Plain text: counts and shares by stratum, and a line of totals."""
    table = Table(title="expressions by stratum")
    for name in population.strata:
        table.add_column(name.replace("_", " "))
    for name in ("before", "share %", "after", "share %", "after - quota"):
        table.add_column(name, justify="right")
    total, size = len(population.items), len(drawn.items)
    for key in list(drawn.before)[:MOST_ROWS]:
        n, m, quota = drawn.before[key], drawn.after[key], drawn.quotas[key]
        numbers = (str(n), _percent(n, total), str(m), _percent(m, size), f"{float(m - quota):+.2f}")
        table.add_row(*(escape(part) for part in key), *numbers)
    table.add_section()
    label = ["all", *[""] * len(population.strata)][: len(population.strata)]
    table.add_row(*label, str(total), "100.0", str(size), "100.0" if size else "-", "")
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(table)
    if len(drawn.before) > MOST_ROWS:
        console.print(f"… and {len(drawn.before) - MOST_ROWS} more strata")
    clips = Counter(item.clip for item in drawn.items)
    cap = f", at most {max(clips.values(), default=0)} of one" + (f" (cap {per_clip})" if per_clip else "")
    every = len({item.clip for item in population.items})
    console.print(f"{size} of {total} expressions from {len(clips)} of {every} clips{cap}", soft_wrap=True)
    for key, gap in drawn.off.items():
        what = f"the cap keeps {' x '.join(key)} {abs(gap)} whole items {'below' if gap < 0 else 'above'} its quota"
        console.print(what, markup=False, soft_wrap=True)
    if population.set_aside:
        console.print(f"{population.set_aside} more expressions are set aside, as they cannot be used", soft_wrap=True)
    for problem in population.problems[:MOST_ROWS]:
        console.print(f"left out: [{problem.code}] {problem}", markup=False, soft_wrap=True)
    if len(population.problems) > MOST_ROWS:
        console.print(f"… and {len(population.problems) - MOST_ROWS} more left out")
    return out.getvalue()


def _percent(n: int, total: int) -> str:
    return f"{100 * n / total:.1f}" if total else "-"
