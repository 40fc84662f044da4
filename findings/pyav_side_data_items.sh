#!/usr/bin/env bash
# PyAV 18.1, `frame.side_data` of a decoded frame (here of a clip that a phone held upright: it bears a rotation).
#
# Guess: it is a mapping from kind to data, as its `get`, `keys`, `items` and `in` say, so `items()` and `dict()` list
# what a frame bears.
#
# Seen: `get("DISPLAYMATRIX")` and `in` go by kind, but iterating yields the data, as of a list; `items()`, `values()`
# and `dict()` then look the data up as a kind and raise KeyError. A frame without side data hides it: nothing to
# iterate.
#
# Matters to: loaders that list side data to find rotations: they pass on clips without any and fail on the first
# upright one. Ask by kind, or iterate and read each one's `type`; for the angle alone there is `frame.rotation`.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cd "$room"
venv/bin/python - <<'PY'
import sys
from collections.abc import Mapping

import av
import numpy as np

with av.open("upright.mp4", "w") as clip:
    stream = clip.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.set_display_rotation(90)
    clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
    clip.mux(stream.encode(None))

with av.open("upright.mp4") as clip:
    frame = next(clip.decode(video=0))
side_data = frame.side_data
print("PyAV", av.__version__, "rotation", frame.rotation, "a Mapping:", isinstance(side_data, Mapping))
print("get:    ", side_data.get("DISPLAYMATRIX").type, "; in:", "DISPLAYMATRIX" in side_data)
print("iterate:", [type(one).__name__ for one in side_data])
raised = []
for name, listing in {"items": lambda: list(side_data.items()), "dict": lambda: dict(side_data)}.items():
    try:
        print(f"{name}:", listing())
    except KeyError as error:
        raised.append(name)
        print(f"{name}: KeyError of a key of type {type(error.args[0]).__name__}")
still = raised == ["items", "dict"] and side_data.get("DISPLAYMATRIX") is not None
print("as found" if still else "CHANGED: items() and dict() list the side data")
sys.exit(0 if still else 1)
PY
