"""``videoseg doctor``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say which versions, devices and engines are here, and what does not fit together.

    Exits with 1 if training or evaluation cannot work. Examples:

      videoseg doctor

      videoseg doctor --json
    """
    from verl_ext.doctor.diagnosis import diagnose, to_report

    findings = diagnose()
    report = to_report(findings)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        for heading in ("", "what", "found", "remedy"):
            table.add_column(heading, overflow="fold")
        for f in findings:
            table.add_row(f"[{STYLES[f.level]}]{f.level}[/]", f.what, escape(f.found), escape(f.remedy))
        console = Console()
        console.print(table)
        count = sum(f.level == "error" for f in findings)
        console.print("All that training needs is here." if report["ok"] else f"{count} finding(s) stop the main job.")
    if not report["ok"]:
        raise typer.Exit(1)
