#!/usr/bin/env bash
# PyAV 18.1 (FFmpeg 8), H.264 with several slices a frame, read with error concealment off (`ec=0`).
#
# Guess: with `ec=0` the decoder repairs nothing, so a frame that is marked corrupt is a damaged one: the option tells
# sound clips from spoilt ones, and a sound clip has no such frame.
#
# Seen: decoding with one thread, every frame of a sound clip is marked corrupt as soon as frames have more than one
# slice. Its pixels are right, no error is raised, and the same clip has no marked frame with the default. One slice a
# frame: none in either way.
#
# Matters to: who refuses damaged videos by this mark. Encoders cut frames into slices by themselves (PyAV's x264
# does, one for each thread); such clips are refused whole. Keep `ec` and look for
# frames that are marked, and for those that are missing.
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

FRAMES = 8


def write(path, slices):
    """Grey frames, each lighter than the one before."""
    with av.open(path, "w") as clip:
        stream = clip.add_stream("libx264", rate=25, options={"threads": "1", "slices": str(slices)})
        stream.width, stream.height, stream.pix_fmt = 64, 128, "yuv420p"
        for index in range(FRAMES):
            grey = np.full((128, 64, 3), 10 + 20 * index, np.uint8)
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        clip.mux(stream.encode(None))


def read(path, options):
    """(frames, marked ones, largest error of a frame's brightness)"""
    with av.open(path) as clip:
        context = clip.streams.video[0].codec_context
        context.options, context.thread_count = options, 1
        frames = list(clip.decode(video=0))
    grey = [float(f.to_ndarray(format="gray").mean()) for f in frames]
    error = max(abs(g - (10 + 20 * i)) for i, g in enumerate(grey))
    return len(frames), sum(f.is_corrupt for f in frames), round(error, 1)


print("PyAV", av.__version__, "libavcodec", av.library_versions["libavcodec"])
found = {}
for slices in (1, 4):
    write(f"{slices}.mp4", slices)
    for name, options in (("default", {}), ("ec=0", {"ec": "0"})):
        found[slices, name] = read(f"{slices}.mp4", options)
        print(f"{slices} slices, {name}: %d frames, %d marked corrupt, brightness off by %.1f" % found[slices, name])
marked = {key: value[1] for key, value in found.items()}
right = all(total == FRAMES and error < 4 for total, _, error in found.values())
still = right and marked == {(1, "default"): 0, (1, "ec=0"): 0, (4, "default"): 0, (4, "ec=0"): FRAMES}
print("as found" if still else "CHANGED: what is marked has to do with damage")
sys.exit(0 if still else 1)
PY
