"""``videoseg doctor``: facts about the machine and its packages, and what does not fit together.

May import `recipe` and what lies below it. Public: `diagnose`.
"""

from verl_ext.doctor.diagnosis import diagnose

__all__ = ["diagnose"]
