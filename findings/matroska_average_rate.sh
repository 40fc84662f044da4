#!/usr/bin/env bash
# PyAV 18.1 (FFmpeg 8), `stream.average_rate` of a Matroska clip whose frames are unevenly spaced.
#
# Guess: what the name says, frames by seconds, as it is for the same stream in MP4: 12 frames in 16 s are 0.75 a
# second (300/401 there).
#
# Seen: Matroska says the rate that the writer was opened with (25/1), whatever the frames' times are; `base_rate` and
# `guessed_rate` say the same, and `stream.frames` is 0, so nothing in the header tells of it.
#
# Matters to: who turns seconds into frame numbers (`second * average_rate`), samples at 1 fps or reckons a clip's
# length with it: screen recordings and clips with dropped frames, kept as MKV or WebM, are asked for frames that are
# not there, or for the wrong ones. Go by `frame.time`.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cd "$room"
venv/bin/python - <<'PY'
import sys
from fractions import Fraction

import av
import numpy as np

PTS = [0, 1, 2, 3, 50, 100, 150, 200, 250, 300, 350, 400]  # in 25ths of a second


def write(path):
    with av.open(path, "w") as clip:
        stream = clip.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pts in PTS:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 25)
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))


print("PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
rate = {}
for path in ("clip.mp4", "clip.mkv"):
    write(path)
    with av.open(path) as clip:
        stream = clip.streams.video[0]
        times = [frame.time for frame in clip.decode(stream)]
        rate[path] = float(stream.average_rate)
        print(f"{path}: average_rate {stream.average_rate}, base_rate {stream.base_rate}, frames {stream.frames};")
    print(f"          decoded {len(times)} frames at {times} s")
    assert len(times) == len(PTS) and abs(times[-1] - 16) < 0.05
still = rate["clip.mp4"] < 1 and rate["clip.mkv"] == 25
print("as found" if still else "CHANGED: average_rate goes by the frames' times in both, or in neither")
sys.exit(0 if still else 1)
PY
