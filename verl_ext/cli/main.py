"""``videoseg``: the commands and what is common to them."""

from __future__ import annotations

from typing import Annotated

import typer

from verl_ext.cli import (
    convert,
    data,
    data_cot,
    data_segmentation,
    data_traces,
    demo,
    doctor,
    evaluate,
    launch,
    policy,
    quickstart,
    report,
    score,
    stop,
    train,
    view,
)
from verl_ext.cli.group import VideosegGroup

app = typer.Typer(
    cls=VideosegGroup,
    name="videoseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def videoseg(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Reinforcement learning for reasoning video object segmentation.

    New here? See the whole pipeline run on this machine:

      videoseg quickstart

    Then look at what a recipe would start, without starting it:

      videoseg train recipes/videoseg_o3/grpo_2b.yaml --dry-run
    """


app.command()(quickstart.quickstart)
app.command()(train.train)
app.add_typer(launch.app, name="launch")
app.command()(stop.stop)
app.command("eval")(evaluate.evaluate)
app.command()(convert.convert)
app.add_typer(policy.app, name="policy")
app.command()(score.score)
app.command()(report.report)
app.command()(view.view)
app.command()(demo.demo)
app.command()(report.compare)
app.command()(report.submit)
data.app.add_typer(data_cot.app, name="cot")
data.app.command()(data_segmentation.segmentation)
for command in data_traces.COMMANDS:
    data.app.command()(command)
app.add_typer(data.app, name="data")
app.command()(doctor.doctor)

if __name__ == "__main__":
    app()
