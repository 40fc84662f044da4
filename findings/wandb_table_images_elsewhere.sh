#!/usr/bin/env bash
# W&B 0.31.0, offline: a `wandb.Table` with a column of `wandb.Image`.
#
# Guess: an offline run is its folder, `wandb/offline-run-*`: copy that folder to a machine with a network, `wandb
# sync` it, and all is there. An image logged by itself does lie in its files/media/images.
#
# Seen: the table's images are staged as nameless files in the user's data directory
# (~/.local/share/wandb/artifacts/staging), and the run's log holds absolute paths to them. The run folder has the
# table's rows only. With WANDB_DATA_DIR they lie where it says, still by absolute path.
#
# Matters to: clusters without a network that log rollouts as tables: nodes whose home is not shared or is cleaned
# lose the pictures, and a quota on home fills. Set WANDB_DATA_DIR beside the run, and sync where that path is the
# same.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q wandb==0.31.0 pillow==13.0.0 numpy==2.3.5
cat >"$room/log.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import wandb

room = Path(sys.argv[1])
picture = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8) for i in range(4)]
run = wandb.init(project="p", mode="offline", dir=room / "job")
table = wandb.Table(columns=["rollout", "image"])
for index in range(3):
    table.add_data(index, wandb.Image(picture[index]))
run.log({"rollouts": table, "alone": wandb.Image(picture[3])})
run.finish()

print("wandb", wandb.__version__)
is_png = lambda path: path.is_file() and path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
inside = [p for p in (room / "job").rglob("*") if is_png(p)]
staged = [p for p in (room / "home").rglob("*") if is_png(p)]
log = next((room / "job").rglob("*.wandb")).read_bytes()
named = sum(str(p).encode() in log for p in staged)
print("pictures in the run's folder:", len(inside), [p.name.split("_")[0] for p in inside])
print("pictures under the home:     ", len(staged), "in", {str(p.parent.relative_to(room)) for p in staged})
print("of these, named by absolute path in the run's log:", named, "; PNG bytes in that log:", b"\x89PNG" in log)
still = len(inside) == 1 and len(staged) == 3 and named > 0 and b"\x89PNG" not in log
print("as found" if still else "CHANGED: the table's images lie elsewhere")
sys.exit(0 if still else 1)
PY
mkdir -p "$room/job" "$room/home"
cd "$room"
env -u WANDB_DATA_DIR -u WANDB_DIR -u XDG_DATA_HOME HOME="$room/home" WANDB_SILENT=true venv/bin/python log.py "$room"
