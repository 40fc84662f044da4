"""Which sequences share a row: whole groups, rows of at most so many tokens, as many rows in every process."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.errors import RecipeError
from verl_ext.packing.dialogue import Dialogue

Unit = list[int]
"""Sequences that share their prompt in one row; one sequence alone is a plain block."""


def unit_tokens(unit: Unit, dialogues: Sequence[Dialogue]) -> int:
    """Rows that the unit takes."""
    prompt = dialogues[unit[0]].prompt if len(unit) > 1 else 0
    return prompt + sum(len(dialogues[i]) - prompt for i in unit)


def fitting_units(groups: Sequence[Unit], dialogues: Sequence[Dialogue], most: int) -> list[Unit]:
    """The groups, those of more than ``most`` tokens cut into parts that each compute the prompt.

    Raises:
        RecipeError: one sequence is longer than that by itself.
    """
    longest = max((len(d) for d in dialogues), default=0)
    if longest > most:
        raise RecipeError(
            f"policy.row_tokens {most} is less than the {longest} tokens of the longest sequence here; raise it to "
            f"{longest} or more, or shorten rollout.prompt_length and rollout.response_length"
        )
    units: list[Unit] = []
    for group in groups:
        unit: Unit = []
        for i in group:
            if unit and unit_tokens([*unit, i], dialogues) > most:
                units.append(unit)
                unit = []
            unit = [*unit, i]
        units.append(unit)
    return units


def fewest_rows(units: Sequence[Unit], dialogues: Sequence[Dialogue], most: int) -> int:
    """Rows that hold them, none above ``most`` tokens, as `deal_rows` deals them."""
    sizes = [unit_tokens(u, dialogues) for u in units]
    n = max(1, -(-sum(sizes) // most))
    while n < len(units) and max(_sums(_deal(sizes, n), sizes)) > most:
        n += 1
    return n


def deal_rows(units: Sequence[Unit], dialogues: Sequence[Dialogue], rows: int) -> list[list[Unit]]:
    """Exactly ``rows`` rows of about the same size; groups are halved where there are fewer units than rows.

    Every process runs as many rows as the fullest one (FSDP's collectives wait for each other). ``rows`` must be at
    most the number of sequences.
    """
    units = [list(u) for u in units]
    while len(units) < rows:
        widest = max(range(len(units)), key=lambda k: (len(units[k]), -k))
        unit = units[widest]
        units[widest : widest + 1] = [unit[: len(unit) // 2], unit[len(unit) // 2 :]]
    sizes = [unit_tokens(u, dialogues) for u in units]
    return [[units[k] for k in row] for row in _deal(sizes, rows)]


def _deal(sizes: Sequence[float], rows: int) -> list[list[int]]:
    """The largest first, each into the emptiest row; no row stays empty if there are as many sizes."""
    out: list[list[int]] = [[] for _ in range(rows)]
    sums = [0.0] * rows
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        emptiest = min(range(rows), key=lambda r: (sums[r], len(out[r])))
        out[emptiest].append(k)
        sums[emptiest] += sizes[k]
    return out


def _sums(rows: Sequence[Sequence[int]], sizes: Sequence[float]) -> list[float]:
    return [sum(sizes[k] for k in row) for row in rows]


def order_by_group(groups: Sequence[str], costs: Sequence[float], shared: Sequence[float], cells: int) -> list[int]:
    """An order of sequences in which each of ``cells`` equal, neighbouring shares holds whole groups where they fit.

    Args:
        groups: of each sequence; "" for one that belongs to none (padding), which fills what is left.
        costs: of each sequence's own part.
        shared: of the part that its group computes once.
        cells: processes times mini-batches; divides the number of sequences.
    """
    room = len(groups) // cells
    members: dict[str, list[int]] = {}
    for i, name in enumerate(groups):
        members.setdefault(name or f"alone {i}", []).append(i)
    cost = {name: shared[m[0]] + sum(costs[i] for i in m) for name, m in members.items()}
    out: list[list[int]] = [[] for _ in range(cells)]
    sums = [0.0] * cells
    left: list[int] = []
    for name in sorted(members, key=lambda n: (-len(members[n]), -cost[n])):
        fits = [c for c in range(cells) if len(out[c]) + len(members[name]) <= room]
        if not fits:
            left += members[name]
            continue
        cell = min(fits, key=lambda c: sums[c])
        out[cell] += members[name]
        sums[cell] += cost[name]
    for share in out:
        taken, left = left[: room - len(share)], left[room - len(share) :]
        share += taken
    return [i for share in out for i in share]
