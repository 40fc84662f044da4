"""Processes that end with the one that started them, however that ended.

A killed process cannot tell its children. A loader's process that is forked in a Ray actor holds the actor's sockets as
well: while it lives, Ray takes the dead actor for alive, and whoever waits for it waits for ever (torch 2.13 ends it
itself, but not while it waits to hand rows to a parent that is gone).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from functools import lru_cache

PR_SET_PDEATHSIG = 1
INIT = 1


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Linux sends ``number`` to this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def end_with_parent() -> None:
    """For a process of a pool, first of all: a thread ends it when the process that made the pool has ended.

    Without it the pool's processes finish what they do and then wait for more for ever. Unlike with `die_with_parent`,
    the thread of the parent that started this process may end before.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def die_with_loader() -> None:
    """To be called by a data set that is read: `die_with_parent` in a loader's process, nothing elsewhere."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        _once(os.getpid())


@lru_cache(maxsize=1)
def _once(process: int) -> None:
    die_with_parent()
    if os.getppid() == INIT:  # it went before it could be asked for
        os._exit(1)
