"""What a training process and its supervisor tell each other through ``output_dir``: metrics, steps, a wish to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_construction.atomic import write_whole

STOP_FILE = "STOP"
"""In ``output_dir``: its presence asks a training process to save and stop."""
STOP_NOW = "now"
"""What the file says once the supervisor was asked again."""
LIVE_METRICS, METRICS = "metrics.live.jsonl", "metrics.jsonl"
HELD_OUT = "held_out.jsonl"
"""In ``output_dir``: one line an evaluation of reinforcement on ``val``."""
FAILED_DIALOGUES = "failed_dialogues.jsonl"
"""In ``output_dir``: ``{"step", "sample", "error"}`` of each rollout whose dialogue raised."""
RESULT_FILE = "result.json"
"""In ``output_dir``: how the training process ended, written by itself; missing while it runs and after a failure."""
TOTAL_FILE = "steps.json"
"""In ``output_dir``: how many steps the run will take, written by the process that knows its data."""
STARTING, STOPPING = "starting processes", "saving and stopping after this step"
"""Shown before the first metrics, and once a stop was asked for."""


def stop_requested(out: str | Path) -> bool:
    return (Path(out) / STOP_FILE).exists()


def announce_total(out: str | Path, steps: int) -> None:
    """Tell the supervisor (and whoever looks) how many steps there will be."""
    write_whole(Path(out) / TOTAL_FILE, json.dumps({"total": steps}) + "\n")


def write_result(out: str | Path, finished: bool, asked_to_stop: bool = False) -> None:
    """Say how the run ended: after its last step, or before it on request."""
    content = {"finished": finished, "asked_to_stop": asked_to_stop}
    write_whole(Path(out) / RESULT_FILE, json.dumps(content) + "\n")


def run_finished(out: str | Path) -> bool:
    """Whether the newest run in ``out`` took its last step, and did all that belongs to it."""
    return _result(out, "finished")


def asked_to_stop(out: str | Path) -> bool:
    """Whether the user asked the newest run in ``out`` to stop, be it too late for the run itself."""
    return _result(out, "asked_to_stop")


def _result(out: str | Path, key: str) -> bool:
    file = Path(out) / RESULT_FILE
    return file.is_file() and bool(json.loads(file.read_text())[key])


def forget_last_run(out: Path) -> None:
    """Remove what an earlier process said about its steps, its end, and a wish to stop it."""
    for name in (STOP_FILE, TOTAL_FILE, RESULT_FILE):
        (out / name).unlink(missing_ok=True)


def fold_metrics(out: Path) -> None:
    """Merge the live metrics into ``metrics.jsonl``; a resumed run's values replace those of steps it did again."""
    live = out / LIVE_METRICS
    if not live.exists():
        return
    rows: dict[int, dict[str, Any]] = {}
    for row in [*read_metrics(out / METRICS), *read_metrics(live)]:
        rows.setdefault(row["step"], {}).update(row["data"])
    write_whole(out / METRICS, "".join(json.dumps({"step": n, "data": rows[n]}) + "\n" for n in sorted(rows)))
    live.unlink()


def forget_after(file: Path, step: int) -> None:
    """Keep the lines of steps up to ``step``: a continued run does the later ones again. Drops a torn line."""
    if file.exists():
        kept = [row for row in rows_of(file.read_bytes()) if row["step"] <= step]
        write_whole(file, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """``{"step", "data"}`` per line; a torn last line is left out."""
    return rows_of(path.read_bytes()) if path.exists() else []


def rows_of(text: bytes) -> list[dict[str, Any]]:
    """JSON lines; torn ones are left out."""
    rows = []
    for line in text.split(b"\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def scalar(value: Any) -> float | None:
    """A metric as verl logs it: a number, or a number in nested lists."""
    while isinstance(value, list) and value:
        value = value[-1]
    return float(value) if isinstance(value, (int, float)) else None
