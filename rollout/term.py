"""SIGTERM blocked, for a process and all that it starts: a scheduler's TERM to everybody is one process's business.

Blocking is inherited, also by programs that install handlers of their own, as Ray's daemons and vLLM's engine do.
"""

from __future__ import annotations

import signal
from multiprocessing import resource_tracker


def block_term() -> None:
    """In this thread, and in all that it starts from now on.

    CPython (3.11, 3.12) unblocks TERM in the thread that starts multiprocessing's resource tracker, which the first
    spawned process or shared lock does; one that runs already is left alone.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def keep_term_blocked() -> None:
    """The same for a process that began with TERM blocked; any other is left as it is."""
    if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        block_term()
