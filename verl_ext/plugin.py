"""What verl imports in every process (``VERL_USE_EXTERNAL_MODULES`` and ``model.external_lib``).

Importing it registers our platform, engine and advantage estimator; nothing else happens.
"""

from __future__ import annotations

import os

if os.environ.get("VERL_PLATFORM") == "cpu":
    from verl_ext import platform_cpu as platform_cpu


def register_engine() -> None:
    """Register the engine and the estimator (imported late: verl's platform must be chosen before them)."""
    from verl_ext import advantage as advantage
    from verl_ext import engine as engine
