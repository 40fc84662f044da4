"""W&B and TensorBoard across a resume: one run stays one run, and no step is there twice."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from data_construction.atomic import write_whole

TENSORBOARD = "tensorboard"
"""In ``output_dir``: the folder of event files."""
WANDB_RUN = "wandb_run.txt"
"""In ``output_dir``: the id of the W&B run that a resumed run goes on with."""


def wandb_environment(out: Path) -> dict[str, str]:
    """What W&B reads when verl starts it; a user's own variables count more."""
    file = out / WANDB_RUN
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, secrets.token_hex(4) + "\n")
    wanted = {"WANDB_RUN_ID": file.read_text().strip(), "WANDB_RESUME": "allow", "WANDB_DIR": str(out)}
    # pictures of tables wait there for `wandb sync`; by default in the home folder, which other machines may not see
    wanted["WANDB_DATA_DIR"] = str(out / "wandb")
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def forget_logged_after(out: Path, step: int | None) -> None:
    """Before a continued run: TensorBoard's events beyond ``step`` go, they will come again.

    None: the run begins anew, so that its W&B run is another one and none of the events stays.
    """
    if step is None:
        (out / WANDB_RUN).unlink(missing_ok=True)
    for file in sorted((out / TENSORBOARD).glob("events.out.tfevents.*")):
        _cut(file, -1 if step is None else step)


def _cut(file: Path, step: int) -> None:
    """Write the event file anew, without the events after ``step`` and without a torn last one; whole or not at all."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = list(EventFileLoader(str(file)).Load())
    kept = [event for event in events if event.step <= step or not event.HasField("summary")]
    if len(kept) == len(events):
        return
    scratch = file.with_name(f".{file.name}.partial")
    with scratch.open("wb") as out:
        writer = RecordWriter(out)
        for event in kept:
            writer.write(event.SerializeToString())
        writer.flush()
    os.replace(scratch, file)
