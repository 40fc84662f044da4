#!/usr/bin/env bash
# PyAV 18.1 (FFmpeg 8), H.264 with B-frames in an AVI file.
#
# Guess: FFmpeg's decoder hands out frames in display order, so `frame.pts` rises from frame to frame in any
# container; AVI stores no pts, so at worst pts is None and dts would have to do.
#
# Seen: AVI's packets do bear a pts, which counts them in coding order. The decoder carries it over, so frames come in
# the right order with pts 1, 3, 4, 2, 6, ... and neither None nor an error says so. The same stream in MP4 is right.
#
# Matters to: whoever sorts or picks frames of a clip by `frame.pts` or `frame.time` (sampling, seeking, matching
# masks to frames). Pictures get swapped without a word, and J&F falls. Count the frames, or put the clip into MP4
# first.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cd "$room"
venv/bin/python - <<'PY'
import sys

import av
import numpy as np

TWO_B_FRAMES = {"bf": "2", "b-adapt": "0", "x264-params": "scenecut=0:b-pyramid=none"}


def write(path):
    """Twelve grey frames, each lighter than the one before: the picture itself says its place."""
    with av.open(path, "w") as clip:
        stream = clip.add_stream("libx264", rate=25, options=TWO_B_FRAMES)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(12):
            grey = np.full((48, 64, 3), 10 + 20 * index, np.uint8)
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        clip.mux(stream.encode(None))


def read(path):
    with av.open(path) as clip:
        frames = list(clip.decode(video=0))
        period = 1 / frames[0].time_base / clip.streams.video[0].average_rate
    places = [round((float(f.to_ndarray(format="gray").mean()) - 10) / 20) for f in frames]
    return places, [int(f.pts / period) for f in frames]


print("PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
seen = {}
for path in ("clip.mp4", "clip.avi"):
    write(path)
    places, seen[path] = read(path)
    print(f"{path}: pictures {places}\n          pts      {seen[path]}")
    assert places == list(range(12)), "the pictures themselves were expected in order"
still = seen["clip.mp4"] == sorted(seen["clip.mp4"]) and seen["clip.avi"] != sorted(seen["clip.avi"])
print("as found" if still else "CHANGED: the pts of both files rise")
sys.exit(0 if still else 1)
PY
