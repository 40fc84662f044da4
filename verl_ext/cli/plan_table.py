"""A recipe's plan as rich tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from verl_ext.recipe import Plan


def print_plan(planned: Plan, console: Console) -> None:
    """One row a kind of process, then the notes."""
    where = f"{planned.nodes} node{'s' if planned.nodes > 1 else ''}, {planned.device}"
    table = Table(title=f"{planned.name}: {planned.stage} on {where}", title_justify="left")
    for heading, justify in (("process", "left"), ("count", "right"), ("devices", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("GiB each", justify="right")
    table.add_column("of which", overflow="fold")
    for p in planned.processes:
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in p.parts.items() if gib >= 0.05)
        table.add_row(p.role, str(p.count), p.devices, "?" if p.gib is None else f"{p.gib:.1f}", parts)
    console.print(table)
    console.print(f"host memory, all processes together: about {planned.host_gib:.1f} GiB")
    for note in planned.notes:
        console.print(f"- {note}", markup=False)
