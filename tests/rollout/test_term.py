"""TERM stays blocked in a process that began so, whatever multiprocessing does; elsewhere nothing changes."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = "signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())"
BODY = f"""
import multiprocessing, signal, time
if {{began}}:
    signal.pthread_sigmask(signal.SIG_BLOCK, {{{{signal.SIGTERM}}}})
if {{ours}}:
    from rollout.term import keep_term_blocked
    keep_term_blocked()
multiprocessing.get_context("spawn").Lock()
print({BLOCKED})
"""


@pytest.mark.parametrize(("began", "ours", "blocked"), [(True, True, True), (False, True, False), (True, False, False)])
def test_the_resource_tracker_does_not_unblock_it(began: bool, ours: bool, blocked: bool) -> None:
    """The last case is CPython's own; once it fails, `rollout.term` need not start the tracker."""
    done = subprocess.run([sys.executable, "-c", BODY.format(began=began, ours=ours)], capture_output=True, text=True)
    assert done.stdout.strip() == str(blocked), done.stderr
