"""The whole pipeline, small, on one CPU machine: ``videoseg quickstart``."""

from verl_ext.quickstart.run import run_quickstart
from verl_ext.quickstart.settings import QuickstartSettings

__all__ = ["QuickstartSettings", "run_quickstart"]
