#!/usr/bin/env bash
# CPython 3.11, `signal.pthread_sigmask` and `multiprocessing`'s spawn context.
#
# Guess: a thread's signal mask is the thread's own; a library call that has to block signals for a moment puts back
# the mask that it found. So SIGTERM, once blocked, stays blocked.
#
# Seen: the first lock, queue or shared memory starts the resource tracker, which blocks SIGINT and SIGTERM for the
# fork and then unblocks both, whether or not they were blocked before. Other signals (SIGUSR1) keep their state.
#
# Matters to: jobs that block SIGTERM to take it with `sigwait` or in one chosen thread, since a scheduler's TERM
# means "save and stop": after the first queue to a spawned worker, TERM ends the process in the middle of a save.
# Start the tracker first (`multiprocessing.resource_tracker.ensure_running()`), then block.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
# The standard library alone: no package is installed.
python3 -m venv --without-pip "$room/venv"
cat >"$room/mask.py" <<'PY'
import multiprocessing
import signal
import sys
from multiprocessing import resource_tracker

STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}


def blocked():
    return {s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, []) if s in STOP}


if __name__ == "__main__":
    print("CPython", sys.version.split()[0], "on", sys.platform)
    tracker_first = "first" in sys.argv
    if tracker_first:
        resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    before = blocked()
    lock = multiprocessing.get_context("spawn").Lock()
    after = blocked()
    print("tracker started first" if tracker_first else "tracker started by the lock")
    print("  blocked before the lock:", sorted(before), "\n  blocked after it:       ", sorted(after))
    still = after == (before if tracker_first else {"SIGUSR1"})
    print("as found" if still else "CHANGED: the mask is put back")
    sys.exit(0 if still else 1)
PY
"$room/venv/bin/python" "$room/mask.py"
"$room/venv/bin/python" "$room/mask.py" first
