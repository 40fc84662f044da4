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
    if planned.gpus:
        console.print(_gpu_table(planned))
    console.print(f"host memory, all processes together: about {planned.host_gib:.1f} GiB")
    for note in planned.notes:
        console.print(f"- {note}", markup=False)


def _gpu_table(planned: Plan) -> Table:
    """What stands on each GPU of a machine, and its sum."""
    each = f"each of {planned.nodes} nodes" if planned.nodes > 1 else "the node"
    table = Table(title=f"GPUs of {each}, GiB on one", title_justify="left")
    for heading in ("GPU", "while updating", "while rolling out", "beside it"):
        table.add_column(heading, overflow="fold")
    for gpu in planned.gpus:
        table.add_row(gpu.gpus, _sum(gpu.updating) or "unused", _sum(gpu.rolling_out), gpu.kv_cache)
    return table


def _sum(held: dict[str, float | None]) -> str:
    if not held:
        return ""
    known = [gib for gib in held.values() if gib is not None]
    total = f"{sum(known):.1f}" if len(known) == len(held) else "?"
    parts = " + ".join(f"{name} {'?' if gib is None else f'{gib:.1f}'}" for name, gib in held.items())
    return f"{parts} = {total}" if len(held) > 1 else parts
