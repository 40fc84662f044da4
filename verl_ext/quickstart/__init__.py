"""The whole pipeline, small, on one CPU machine: ``videoseg quickstart``."""

from verl_ext.quickstart.run import run_quickstart

__all__ = ["run_quickstart"]
