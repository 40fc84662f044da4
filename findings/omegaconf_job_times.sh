#!/usr/bin/env bash
# OmegaConf 2.3.1 (PyYAML 6), a time limit as schedulers write it, unquoted in a YAML file.
#
# Guess: `time: 24:00:00` is text like `time: 02:00:00`; YAML 1.1 knows numbers to the base of 60, and if a reader
# takes one of them for such a number, it takes both.
#
# Seen: a limit that begins with 1 to 9 becomes a whole number (86400), one that begins with 0 stays text, and so does
# one with days (`1-00:00:00`). A typed field `str` takes the number without a word and makes "86400" of it.
#
# Matters to: who keeps job limits in a configuration: handed on to Slurm, 86400 are minutes, sixty days, and the job is
# refused or waits; the tests with `02:00:00` pass. Quote them, or refuse a limit that has no colon.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q omegaconf==2.3.1 pyyaml==6.0.3
cd "$room"
venv/bin/python - <<'PY'
import sys
from dataclasses import dataclass
from importlib.metadata import version

from omegaconf import OmegaConf


@dataclass
class Job:
    time: str = ""


print("omegaconf", version("omegaconf"), "pyyaml", version("pyyaml"))
found = {}
for text in ("02:00:00", "24:00:00", "1-00:00:00"):
    plain = OmegaConf.create(f"time: {text}").time
    typed = OmegaConf.merge(OmegaConf.structured(Job), OmegaConf.create(f"time: {text}")).time
    found[text] = plain, typed
    print(f"time: {text:10s} -> {plain!r}, in a field of str {typed!r}")
still = found == {
    "02:00:00": ("02:00:00", "02:00:00"),
    "24:00:00": (86400, "86400"),
    "1-00:00:00": ("1-00:00:00", "1-00:00:00"),
}
print("as found" if still else "CHANGED: times are read alike")
sys.exit(0 if still else 1)
PY
