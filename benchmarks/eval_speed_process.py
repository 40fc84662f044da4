"""One arm of `benchmarks.eval_speed` in a process of its own: ``ARM FILE SETTINGS WORK SECONDS``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.eval_speed_arms import ours, prepare


def main() -> None:
    began = time.monotonic()
    arm, file, settings, work, seconds = sys.argv[1:]
    s = json.loads(settings)
    if arm == "prepare":
        prepare(s, Path(work))
    elif arm == "loop":
        from benchmarks.eval_speed_loop import loop

        loop(s, Path(work), Path(file), float(seconds), began)
    else:
        ours(s, Path(work), Path(file), float(seconds), int(arm.split("@")[1]), began)


if __name__ == "__main__":
    main()
