"""The whole pipeline, small, on one CPU machine: ``videoseg quickstart``.

May import every room but `cli`.
"""

from verl_ext.quickstart.run import run_quickstart
from verl_ext.quickstart.settings import QuickstartSettings

__all__ = ["QuickstartSettings", "run_quickstart"]
