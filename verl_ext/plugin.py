"""What verl imports in every process (``VERL_USE_EXTERNAL_MODULES`` and ``model.external_lib``).

Importing it registers our platform, engine and advantage estimator, and keeps a scheduler's TERM away from processes
that began with it blocked (see `rollout.term`); nothing else happens.
"""

from __future__ import annotations

import os
from importlib import import_module

from rollout.term import keep_term_blocked

keep_term_blocked()

if os.environ.get("VERL_PLATFORM") == "cpu":
    import_module("verl_ext.engine.platform_cpu")


def register_engine() -> None:
    """Register the engine and the estimator (imported late: verl's platform must be chosen before them)."""
    for module in ("verl_ext.objective.advantage", "verl_ext.engine.fsdp"):
        import_module(module)
    import_module("verl_ext.engine.text_only_rows").cure_text_only_rows()
